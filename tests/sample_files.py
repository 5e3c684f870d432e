# SPDX-License-Identifier: Apache-2.0
"""A few files to transfer and to hash."""

from pathlib import Path


def make_files(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


FILES = {"a.txt": b"alpha", "sub/b.bin": bytes(range(256)) * 100, "empty": b""}
