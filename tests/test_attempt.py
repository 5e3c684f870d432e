# SPDX-License-Identifier: Apache-2.0
"""What a process of a pod's attempt reads and writes; outside of a pod nothing."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from steerlm import attempt
from steerlm.errors import SupersededError
from steerlm.jobs.parts import Parts


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of attempt 2, which is the current one."""
    folder = tmp_path / "attempts" / "2"
    folder.mkdir(parents=True)
    (folder.parent / "current").write_text("2\n")
    monkeypatch.setenv(attempt.FOLDER, str(folder))
    monkeypatch.setattr(attempt, "VISIBLE_SECONDS", 0.1)
    return folder


def test_outside_of_a_pod_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(attempt.FOLDER, raising=False)
    attempt.check_current()
    attempt.report("training", 3)
    assert attempt.folder() is None and not attempt.stop_requested()


def test_only_the_current_attempt_publishes(folder: Path, tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    parts.write(1, {}, "text\n")
    (folder.parent / "current").write_text("3\n")
    with pytest.raises(SupersededError, match="attempts/2: attempt 3 of this job is the current one"):
        parts.write(2, {}, "text\n")
    assert parts.count() == 1 and 1 in parts and 2 not in parts
    assert not list(tmp_path.glob(".*"))
    # It also stops, which its next checkpoint would refuse.
    assert attempt.stop_requested()


def test_records_that_are_gone_are_not_a_permission(folder: Path) -> None:
    (folder.parent / "current").unlink()
    with pytest.raises(SupersededError, match="attempt none of this job"):
        attempt.check_current()
    assert not attempt.stop_requested()  # a file system that is late


def test_a_change_of_phase_is_reported_at_once_and_steps_once_a_second(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reported() -> object:
        return json.loads((folder / "heartbeat.json").read_text())

    now = 100.0
    monkeypatch.setattr("steerlm.attempt.time", SimpleNamespace(monotonic=lambda: now))
    attempt.report("loading", 0)
    attempt.report("training", 1)
    attempt.report("training", 2)
    assert reported() == {"phase": "training", "step": 1}
    now += 1.0
    attempt.report("training", 3)
    assert reported() == {"phase": "training", "step": 3}
    attempt.report("saving", 3)
    assert reported() == {"phase": "saving", "step": 3}
    assert {path.name for path in folder.iterdir()} == {"heartbeat.json"}


def test_a_workspace_that_fails_does_not_end_the_work(folder: Path) -> None:
    (folder / "heartbeat.json").mkdir()  # a file cannot replace a folder
    attempt.report("training", 1)
    assert not attempt.stop_requested()


def test_the_stop_file_is_looked_for_once_a_second(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("steerlm.attempt.time", SimpleNamespace(monotonic=lambda: now))
    assert not attempt.stop_requested()
    (folder / "stop").touch()
    assert not attempt.stop_requested()
    now += 1.0
    assert attempt.stop_requested()
    (folder / "stop").unlink()
    now += 1.0
    assert attempt.stop_requested()  # once requested, it stays


def test_many_processes_share_the_load_on_the_workspace(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("steerlm.attempt.time", SimpleNamespace(monotonic=lambda: now))
    counted: list[float] = []

    def count() -> int:
        counted.append(now)
        return len(counted)

    for _ in range(17):
        attempt.report("labeling", count, 256)
        assert not attempt.stop_requested(256)
        now += 1.0
    assert counted == [100.0, 108.0, 116.0]
    assert json.loads((folder / "heartbeat.json").read_text()) == {"phase": "labeling", "step": 3}
    (folder / "stop").touch()
    assert not attempt.stop_requested(256)
    now += 7.0
    assert attempt.stop_requested(256)
