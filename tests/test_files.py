# SPDX-License-Identifier: Apache-2.0
"""Files and folders appear under their name only when complete, and a failure leaves no trace."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from steerlm.artifact import Store
from steerlm.files import (
    ABANDONED_SECONDS,
    atomic_folder,
    atomic_path,
    atomic_writer,
    atomic_writers,
    cache_folder,
    partial_path,
    remove_partial_files,
    unique_writer,
    write_json,
)
from steerlm.locks import hold

OTHER_POD = "@launcher-7-f00000ab@1@0123abcd"


def of_a_dead_process() -> str:
    """Return the writer's name of a process of this machine that has ended."""
    script = "from steerlm.files import unique_writer; print(unique_writer())"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()


def test_outputs_that_belong_together_appear_together(tmp_path: Path) -> None:
    paths = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    with pytest.raises(RuntimeError), atomic_writers(*paths) as (first, second):
        first.write("half")
        second.write("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with atomic_writers(*paths) as (first, second):
        first.write("a")
        second.write("b")
    assert [p.read_text() for p in paths] == ["a", "b"]
    assert len(list(tmp_path.iterdir())) == 2


def test_an_output_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "out" / "a.jsonl"
    with pytest.raises(RuntimeError), atomic_writer(path) as file:
        file.write("half")
        raise RuntimeError
    assert list(path.parent.iterdir()) == []
    with atomic_writer(path) as file:
        file.write("whole\n")
        assert not path.exists()
    assert [p.name for p in path.parent.iterdir()] == ["a.jsonl"]


def test_a_path_is_replaced_when_its_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_path(path) as partial:
        partial.write_bytes(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    with atomic_path(path) as partial:
        partial.write_bytes(b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_hard_link_to_the_target_itself_leaves_no_second_name(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"same")
    with atomic_path(path, writer="") as partial:
        os.link(path, partial)
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    with pytest.raises(RuntimeError), atomic_folder(folder) as partial:
        (partial / "a").touch()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    left, live = partial_path(folder, of_a_dead_process()), partial_path(folder, OTHER_POD)
    for one in (left, live):
        one.mkdir()
        (one / "part").touch()
    with atomic_folder(folder) as partial:
        (partial / "a").touch()
        assert not folder.exists()
    assert sorted(tmp_path.rglob("*")) == [live, live / "part", folder, folder / "a"]


def test_partial_files_of_dead_processes_are_removed(tmp_path: Path) -> None:
    kept = [tmp_path / "below" / "model.partial", partial_path(tmp_path / "b", unique_writer())]
    kept.append(partial_path(tmp_path / "b", OTHER_POD))
    kept[0].parent.mkdir()
    old = partial_path(tmp_path / "old", OTHER_POD)
    for path in (*kept, old, partial_path(kept[0]), partial_path(tmp_path / "b", of_a_dead_process())):
        path.touch()
    os.utime(old, (0, time.time() - ABANDONED_SECONDS - 60))
    remove_partial_files(tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with atomic_path(path) as first, atomic_path(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first", "the one that ended last"
    assert list(tmp_path.iterdir()) == [path]


def test_everything_is_made_with_the_umask(tmp_path: Path) -> None:
    """Other pods of the same group write in the same folders."""
    before = os.umask(0o002)
    try:
        write_json(tmp_path / "new" / "a.json", {})
        with atomic_path(tmp_path / "path") as partial:
            save_file({"weight": np.zeros(1)}, partial)  # for its owner alone
        with atomic_folder(tmp_path / "folder") as partial:
            (partial / "b").touch()
        with hold(tmp_path / "lock"):
            pass
        store = Store(tmp_path / "store")
        with store.lock("stage", "key", print) as held:
            store.begin("stage", "key", "data", {})
            (store.folder("stage", "key") / "data" / "c").touch()
            store.finish("stage", "key", "data", None, {}, held=held)
    finally:
        os.umask(before)
    paths = list(tmp_path.rglob("*"))
    assert {"a.json", "COMPLETE", "manifest.json", ".hashes.json", "lock", "b"} <= {path.name for path in paths}
    for path in paths:
        assert path.stat().st_mode & 0o777 == (0o775 if path.is_dir() else 0o664), path


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    assert cache_folder() == tmp_path / "user" / "steerlm"
    monkeypatch.setenv("STEERLM_CACHE", str(tmp_path / "workspace"))
    assert cache_folder() == tmp_path / "workspace"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    assert Store("s3://bucket/store").root == tmp_path / "workspace" / "stores" / "bucket" / "store"
