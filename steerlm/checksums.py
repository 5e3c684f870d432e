# SPDX-License-Identifier: Apache-2.0
"""sha256 checksums of files, folders, JSON values and data sources."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerlm.files import cache_folder, write_json


@dataclass(frozen=True, slots=True)
class FileDigest:
    """Checksum (lowercase hex) and size in bytes of one file."""

    sha256: str
    size: int


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file's bytes in lowercase hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_json(value: Any) -> str:
    """Return the sha256 of a JSON value: keys sorted, no spaces, so that equal values have equal digests."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_folder(path: Path, memory: Path | None = None) -> dict[str, FileDigest]:
    """Return the checksum of every file below a folder (or of one file), by relative POSIX name.

    Hidden files and folders are left out.

    Args:
        path: A folder or a file.
        memory: A JSON file that remembers checksums by size and modification time. A file that was not touched is not
            read again: 140 GB of weights are then checked in milliseconds.
    """
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file() and not _hidden(p, path))
    remembered: dict[str, Any] = {}
    if memory and memory.exists():
        try:
            remembered = json.loads(memory.read_text(encoding="utf-8"))
        except ValueError:
            remembered = {}  # a broken memory costs time only
    digests: dict[str, FileDigest] = {}
    fresh: dict[str, Any] = {}
    for file in files:
        name = file.name if file == path else file.relative_to(path).as_posix()
        stat = file.stat()
        size, modified, sha = remembered.get(name, (0, 0, ""))
        if not sha or (size, modified) != (stat.st_size, stat.st_mtime_ns):
            sha = sha256_file(file)
        digests[name] = FileDigest(sha, stat.st_size)
        fresh[name] = [stat.st_size, stat.st_mtime_ns, sha]
    if memory and fresh != remembered:
        write_json(memory, fresh)
    return digests


def digest_source(uri: str) -> str:
    """Return what identifies a source: the content of a local file or folder, whatever its path; else the URI itself.

    Checksums are remembered in the user's cache folder.
    """
    path = Path(uri.removeprefix("file://")).expanduser()
    if not path.exists():  # the URI of a remote source is no path
        return uri
    memory = cache_folder() / "hashes" / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:20]}.json"
    files = {name: digest.sha256 for name, digest in digest_folder(path.resolve(), memory).items()}
    return "sha256:" + hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)
