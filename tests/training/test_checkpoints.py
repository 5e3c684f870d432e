# SPDX-License-Identifier: Apache-2.0
"""Which checkpoints are complete and which are kept."""

import shutil
import threading
import time
from pathlib import Path

import pytest

from steerlm.training.checkpoints import Checkpoints


def make(folder: Path, *steps: int, complete: bool = True) -> None:
    for step in steps:
        path = folder / f"step-{step:06d}"
        path.mkdir(parents=True)
        (path / "weights").write_text("w")
        if complete:
            (path / "COMPLETE").touch()


def left(folder: Path) -> list[str]:
    """Return the names in the folder, once background deletions have ended."""
    end = time.monotonic() + 10
    while any(path.name.startswith(".deleted-") for path in folder.iterdir()) and time.monotonic() < end:
        time.sleep(0.01)
    return sorted(path.name for path in folder.iterdir())


def test_a_deletion_does_not_block_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, 10, 20)
    slow, delete = threading.Event(), shutil.rmtree

    def slow_delete(path: Path, ignore_errors: bool) -> None:
        if slow.wait(10):
            delete(path, ignore_errors=ignore_errors)

    monkeypatch.setattr(shutil, "rmtree", slow_delete)
    checkpoints = Checkpoints(tmp_path, 1, True)
    checkpoints.prune(None)
    assert checkpoints.complete() == [20] and len(list(tmp_path.iterdir())) == 2
    slow.set()
    assert left(tmp_path) == ["step-000020"]


def test_complete_checkpoints_are_listed_by_step(tmp_path: Path) -> None:
    make(tmp_path, 5, 1000000, 20)
    make(tmp_path, 30, complete=False)
    (tmp_path / "notes.txt").touch()
    assert Checkpoints(tmp_path, 2, True).complete() == [5, 20, 1000000]
    assert Checkpoints(tmp_path / "none", 2, True).complete() == []


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    make(tmp_path, 10, 20, 30, 40, 50)
    checkpoints = Checkpoints(tmp_path, 2, True)
    checkpoints.prune(best=20)
    assert checkpoints.complete() == [20, 40, 50]
    assert left(tmp_path) == ["step-000020", "step-000040", "step-000050"]
    checkpoints.prune(best=None)
    assert checkpoints.complete() == [40, 50]


def test_only_the_main_rank_removes_what_a_failed_save_left(tmp_path: Path) -> None:
    make(tmp_path, 10)
    make(tmp_path, 20, complete=False)
    other = Checkpoints(tmp_path, 1, False)
    other.clean()
    other.prune(None)
    assert (tmp_path / "step-000020").exists()
    (tmp_path / ".deleted-step-000005-1" / "tensors").mkdir(parents=True)
    Checkpoints(tmp_path, 1, True).clean()
    assert left(tmp_path) == ["step-000010"]
