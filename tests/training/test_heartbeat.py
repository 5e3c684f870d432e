# SPDX-License-Identifier: Apache-2.0
"""Heartbeats of real processes: another one names the process that is stopped, dead, behind or has failed."""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from steerlm import processes
from steerlm.errors import PeerLostError, TrainingError
from steerlm.training.heartbeat import DUMP, Beat, Heartbeat

LIMIT = 1.0
FORK = multiprocessing.get_context("fork")


def reads_forever(heartbeat: Heartbeat) -> None:
    heartbeat.mark("reading", 3)
    time.sleep(60)


def fails(heartbeat: Heartbeat) -> None:
    heartbeat.mark("saving", 2)
    raise TrainingError("the disk is full\nof files")


def loses_its_peer(heartbeat: Heartbeat) -> None:
    raise PeerLostError("another process has ended")


def ends(heartbeat: Heartbeat) -> None: ...


class Other:
    """Rank 1 of two, in its own process."""

    def __init__(self, folder: Path, does: Callable[[Heartbeat], None] = reads_forever) -> None:
        self.process = FORK.Process(target=self._run, args=(folder, does), daemon=True)
        self.process.start()
        assert self.process.pid
        self.pid = self.process.pid
        self.beat = folder / "rank-1.json"
        if does is reads_forever:
            until(lambda: self.beat.exists() and '"reading"' in self.beat.read_text())
        else:
            self.process.join()

    @staticmethod
    def _run(folder: Path, does: Callable[[Heartbeat], None]) -> None:
        with Heartbeat(folder, 1, 2, LIMIT) as heartbeat:
            does(heartbeat)


def until(holds: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_stopped_process_is_noticed_named_and_killed(tmp_path: Path) -> None:
    reports: list[str] = []
    with Heartbeat(tmp_path, 0, 2, LIMIT, on_lost=reports.append):
        other = Other(tmp_path)
        time.sleep(1.7 * LIMIT)
        assert not reports, "a process that beats was reported as lost"
        os.kill(other.pid, signal.SIGSTOP)
        start = time.monotonic()
        until(lambda: reports)
        assert LIMIT < time.monotonic() - start < LIMIT + 5
    assert f"pid {other.pid}) is stopped, last heartbeat" in reports[0] and "ago in step 3 (reading)" in reports[0]
    other.process.join(10)
    assert other.process.exitcode == -signal.SIGKILL
    # The reason can still be read later.
    with Heartbeat(tmp_path, 0, 2, LIMIT) as later:
        assert "is stopped" in later.diagnosis() and later.diagnosis().endswith("; killed")


def test_heartbeats_of_an_earlier_start_are_not_reported_as_lost(tmp_path: Path) -> None:
    with Heartbeat(tmp_path, 0, 2, LIMIT):
        other = Other(tmp_path)
        os.kill(other.pid, signal.SIGKILL)
        other.process.join()
    reports: list[str] = []
    with Heartbeat(tmp_path, 0, 2, LIMIT, on_lost=reports.append):
        time.sleep(1.7 * LIMIT)
    assert not reports


def test_a_heartbeat_of_another_machine_counts_once_all_have_joined(tmp_path: Path) -> None:
    """Before that it may be left from an earlier start, even if this process was paused in between."""
    reports: list[str] = []
    stale = Beat(1, "elsewhere", 1, "1", step=3, phase="reading")
    (tmp_path / "rank-1.json").write_text(json.dumps(asdict(stale)))
    with Heartbeat(tmp_path, 0, 2, LIMIT, on_lost=reports.append) as heartbeat:
        time.sleep(0.5 * LIMIT)
        heartbeat._checked -= LIMIT  # as if it had been stopped itself
        time.sleep(1.7 * LIMIT)
        assert not reports
        heartbeat.joined(0)
        until(lambda: reports)
    assert "rank 1 (elsewhere, pid 1) is silent, last heartbeat" in reports[0]


def test_a_dead_process_is_named(tmp_path: Path) -> None:
    with Heartbeat(tmp_path, 0, 2, LIMIT) as heartbeat:
        other = Other(tmp_path)
        os.kill(other.pid, signal.SIGKILL)
        until(lambda: processes.start_time(other.pid) is None)
        assert f"pid {other.pid}) is gone, last heartbeat in step 3 (reading)" in heartbeat.diagnosis()


def test_a_process_that_another_one_kills_is_named_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several processes time out at once: one reads a heartbeat, another kills its process, the first sees it gone."""
    with Heartbeat(tmp_path, 0, 2, LIMIT) as heartbeat:
        beat = Beat(1, heartbeat.beat.host, 2**22 + 1, "1", step=3, phase="reading")
        path = tmp_path / "rank-1.json"
        path.write_text(json.dumps(asdict(beat)))

        def killed(pid: int) -> None:
            path.write_text(json.dumps(asdict(beat) | {"ended": "is stopped, last heartbeat 4 s ago; killed"}))

        monkeypatch.setattr(processes, "state", killed)
        assert heartbeat.diagnosis().endswith("is stopped, last heartbeat 4 s ago; killed")


@pytest.mark.parametrize(
    ("does", "diagnosis"), [(fails, "has ended: the disk is full"), (loses_its_peer, ""), (ends, "")]
)
def test_only_processes_that_ended_with_a_cause_are_named(
    tmp_path: Path, does: Callable[[Heartbeat], None], diagnosis: str
) -> None:
    with Heartbeat(tmp_path, 0, 2, LIMIT) as heartbeat:
        Other(tmp_path, does)
        assert heartbeat.diagnosis().endswith(diagnosis)
        assert bool(heartbeat.diagnosis()) == bool(diagnosis)


def test_a_process_that_is_behind_is_named_with_its_phase(tmp_path: Path) -> None:
    with Heartbeat(tmp_path, 0, 2, LIMIT) as heartbeat:
        other = Other(tmp_path)
        heartbeat.mark("reading", 3)
        heartbeat.collectives = lambda: 7
        assert heartbeat.diagnosis() == "", "this process has only just moved on, after the other's heartbeat"
        time.sleep(0.5 * LIMIT)
        assert f"rank 1 ({heartbeat.beat.host}, pid {other.pid}) is behind" in heartbeat.diagnosis()
        assert "in step 3 (reading, 0 collectives), others are in step 3 (reading, 7)" in heartbeat.diagnosis()
        heartbeat.joined(1)
        assert heartbeat.diagnosis() == "", "stages enter different collectives"
        until(lambda: "reads_forever" in (tmp_path / "stacks-1.txt").read_text())
        assert heartbeat.describe(1) == f"rank 1 ({heartbeat.beat.host}, pid {other.pid})"


def test_a_timeout_that_torch_has_recorded_is_reported(tmp_path: Path) -> None:
    """When a GPU collective times out, torch writes its record and ends the process; no error is raised."""
    reports: list[str] = []
    record = tmp_path / "record"
    record.write_text("from an earlier start")
    with Heartbeat(tmp_path, 0, 2, LIMIT, dumped=record, on_timeout=reports.append) as heartbeat:
        Other(tmp_path)
        heartbeat.mark("reading", 3)
        heartbeat.collectives = lambda: 7
        time.sleep(0.5 * LIMIT)
        assert not reports
        record.write_text("from this one")
        until(lambda: reports)
    assert "is behind" in reports[0]


def test_one_process_writes_no_heartbeat(tmp_path: Path) -> None:
    with Heartbeat(tmp_path, 0, 1) as heartbeat:
        heartbeat.mark("training", 1)
        assert heartbeat.diagnosis() == ""
    assert not list(tmp_path.glob("*.json")) and not (tmp_path / DUMP).exists()


def test_the_heartbeat_file_has_pid_step_and_phase(tmp_path: Path) -> None:
    with Heartbeat(tmp_path, 0, 2, LIMIT) as heartbeat:
        heartbeat.mark("training", 5)
        until(lambda: json.loads((tmp_path / "rank-0.json").read_text())["step"] == 5)
    beat = json.loads((tmp_path / "rank-0.json").read_text())
    assert beat["pid"] == os.getpid() and beat["phase"] == "training" and beat["ended"] == ""
