# SPDX-License-Identifier: Apache-2.0
"""Checksums of folders and sources: every byte counts, and a file that was not touched is not read again."""

import hashlib
import os
from pathlib import Path

import pytest

from steerlm.checksums import FileDigest, digest_folder, digest_source
from tests.sample_files import FILES, make_files


def test_digests_name_every_file_and_hidden_ones_are_left_out(tmp_path: Path) -> None:
    folder = make_files(tmp_path, FILES | {".hidden": b"x", ".git/y": b"y"})
    digests = digest_folder(folder)
    assert digests == {name: FileDigest(hashlib.sha256(c).hexdigest(), len(c)) for name, c in FILES.items()}


def test_remembered_checksums_follow_changes(tmp_path: Path) -> None:
    folder, memory = make_files(tmp_path / "f", FILES), tmp_path / "memory.json"
    first = digest_folder(folder, memory)
    stat = (folder / "a.txt").stat()
    (folder / "a.txt").write_bytes(b"ALPHA")
    os.utime(folder / "a.txt", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert digest_folder(folder, memory) == first, "an untouched file is not read again"
    os.utime(folder / "a.txt", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert digest_folder(folder, memory)["a.txt"] != first["a.txt"]
    memory.write_text("broken")
    assert digest_folder(folder, memory)["sub/b.bin"] == first["sub/b.bin"]


def test_a_source_is_its_content_not_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    one, two = make_files(tmp_path / "one", FILES), make_files(tmp_path / "two", FILES)
    assert digest_source(str(one)) == digest_source(str(two))
    (two / "a.txt").write_bytes(b"other")
    assert digest_source(str(one)) != digest_source(str(two))
    assert digest_source("nvidia/HelpSteer2@main") == "nvidia/HelpSteer2@main"
    assert digest_source("s3://bucket/x") == "s3://bucket/x"
