# SPDX-License-Identifier: Apache-2.0
"""The launcher over the local back end: signals, attempts, stalls; with real processes that are really killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from steerlm.errors import Interrupted, TrainingError
from steerlm.jobs.config import JobSettings
from steerlm.jobs.launcher import launch
from steerlm.jobs.local import LocalBackend
from tests.jobs.test_local import _own_cache as _own_cache
from tests.jobs.test_local import make_job


def test_new_lines_are_forwarded(tmp_path: Path) -> None:
    lines: list[str] = []
    launch(LocalBackend(), make_job(tmp_path), JobSettings(), lines.append)
    assert lines == ["starts at step 0", "step 1/3", "step 2/3", "step 3/3"]


def test_a_reported_error_is_final(tmp_path: Path) -> None:
    job = make_job(tmp_path, fail_at=2)
    with pytest.raises(TrainingError, match=r"the loss is not finite \(its log: .*train\.log\)"):
        launch(LocalBackend(), job, JobSettings(attempts=5), lambda line: None)
    assert job.log.read_text().count("starts") == 1


def test_a_killed_worker_is_started_again(tmp_path: Path) -> None:
    lines: list[str] = []
    notes: list[str] = []
    launch(LocalBackend(), make_job(tmp_path, die_at=2), JobSettings(attempts=2), lines.append, notes.append)
    assert notes[-1].endswith("; starting attempt 2 of 2")
    assert [line for line in lines if "starts" in line] == ["starts at step 0", "starts at step 2"]


def test_attempts_are_bounded(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="SIGKILL"):
        launch(LocalBackend(), make_job(tmp_path, die_at=2), JobSettings(attempts=1), lambda line: None)


def test_a_stalled_job_is_killed(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no progress for"):
        launch(LocalBackend(), make_job(tmp_path, hang_at=2), JobSettings(no_progress_minutes=0.03), lambda line: None)


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, Interrupted), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_lets_the_job_save(tmp_path: Path, number: signal.Signals, error: type[BaseException]) -> None:
    job = make_job(tmp_path, steps=1000, pause=0.05)

    def stop_at_three(line: str) -> None:
        if line == "step 3/1000":
            os.kill(os.getpid(), number)

    with pytest.raises(error):
        launch(LocalBackend(), job, JobSettings(), stop_at_three)
    assert int((tmp_path / "step-0").read_text()) >= 3
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_in_the_terminal_reaches_the_job_through_the_launcher(tmp_path: Path) -> None:
    """A terminal sends SIGINT to the whole foreground group; the job is in a session of its own."""
    script = (
        "from tests.jobs.test_launcher import *;"
        f"launch(LocalBackend(), make_job(Path({str(tmp_path)!r}), steps=1000, pause=0.05), JobSettings(), print)"
    )
    launcher = subprocess.Popen([sys.executable, "-uc", script], stdout=subprocess.PIPE, text=True, process_group=0)
    assert launcher.stdout is not None
    for line in launcher.stdout:
        if line.startswith("step 2/"):
            os.killpg(launcher.pid, signal.SIGINT)
            break
    assert launcher.wait(30) in (1, -signal.SIGINT)
    assert int((tmp_path / "step-0").read_text()) >= 2


def test_a_second_launcher_attaches_to_the_job_of_a_killed_one(tmp_path: Path) -> None:
    job = make_job(tmp_path, steps=60, pause=0.05)
    first = LocalBackend()
    first.ensure(job)
    time.sleep(0.5)
    lines: list[str] = []
    launch(LocalBackend(), job, JobSettings(), lines.append)
    assert lines[-1] == "step 60/60"
    assert job.log.read_text().count("starts") == 1
