# SPDX-License-Identifier: Apache-2.0
"""Files and folders appear under their name only when complete, and a failure leaves no trace."""

import os
from pathlib import Path

import pytest

from steerlm.files import atomic_folder, atomic_path, atomic_writer, atomic_writers, partial_path, remove_partial_files


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
    left = partial_path(folder, os.uname().nodename)
    left.mkdir()
    (left / "of a killed process").touch()
    with atomic_folder(folder) as partial:
        (partial / "a").touch()
        assert not folder.exists()
    assert list(tmp_path.rglob("*")) == [folder, folder / "a"]


def test_partial_files_of_killed_processes_are_removed(tmp_path: Path) -> None:
    kept = tmp_path / "below" / "model.partial"
    kept.parent.mkdir()
    for path in (kept, partial_path(kept), partial_path(tmp_path / "b", "123")):
        path.touch()
    remove_partial_files(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [kept]
