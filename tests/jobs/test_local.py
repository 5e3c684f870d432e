# SPDX-License-Identifier: Apache-2.0
"""The local back end with real processes: attaching by name, statuses, signals."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from steerlm import processes
from steerlm.errors import InputError, SteerLMError
from steerlm.jobs.backend import Job, JobStatus, job_name
from steerlm.jobs.local import LocalBackend
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start workers from the root, and keep the links from names to jobs apart from the user's."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def make_job(folder: Path, devices: int = 1, **spec: Any) -> Job:
    return Job(
        name=job_name("train fake", folder / "job"),
        module="tests.jobs.fake_worker",
        spec={"work": str(folder), "steps": 3, **spec},
        folder=folder / "job",
        log=folder / "logs" / "train.log",
        devices=devices,
    )


def wait(backend: LocalBackend, name: str, seconds: float = 60.0) -> JobStatus:
    end = time.monotonic() + seconds
    while not (status := backend.status(name)).ended:
        assert time.monotonic() < end, "the job did not end"
        time.sleep(0.05)
    return status


def wait_for_line(backend: LocalBackend, name: str, text: str, times: int = 1) -> None:
    end = time.monotonic() + 60
    while sum(text in line for _, line in backend.logs(name)) < times:
        assert time.monotonic() < end, f"{text!r} was never logged"
        time.sleep(0.05)


def test_a_job_succeeds_and_its_log_can_be_read_from_an_offset(tmp_path: Path) -> None:
    backend = LocalBackend()
    name = backend.ensure(make_job(tmp_path))
    assert wait(backend, name).state == "succeeded"
    lines = list(backend.logs(name))
    assert [text for _, text in lines] == ["starts at step 0", "step 1/3", "step 2/3", "step 3/3"]
    assert [text for _, text in backend.logs(name, lines[1][0])] == ["step 2/3", "step 3/3"]
    # A job that has succeeded is not run again.
    assert backend.ensure(make_job(tmp_path)) == name
    assert len(list(backend.logs(name))) == 4


def test_another_process_attaches_by_name(tmp_path: Path) -> None:
    job = make_job(tmp_path, steps=1000, pause=0.05)
    first, second = LocalBackend(), LocalBackend()
    name = first.ensure(job)
    assert second.ensure(job) == name
    wait_for_line(second, name, "step 2/")
    with pytest.raises(SteerLMError, match="is already running with other settings"):
        second.ensure(make_job(tmp_path, steps=7, pause=0.05))
    second.cancel(name)
    assert wait(first, name).state == "interrupted"
    done = int((tmp_path / "step-0").read_text())
    # The next start resumes where it stopped.
    name = second.ensure(make_job(tmp_path, steps=done + 1, pause=0.05))
    assert wait(second, name).state == "succeeded"
    assert f"starts at step {done}" in [text for _, text in second.logs(name)]


def test_a_job_outlives_its_launcher(tmp_path: Path) -> None:
    script = (
        "from tests.jobs.test_local import make_job, LocalBackend; from pathlib import Path; import os, signal;"
        f"LocalBackend().ensure(make_job(Path({str(tmp_path)!r}), steps=40, pause=0.05)); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -signal.SIGKILL
    backend = LocalBackend()
    name = make_job(tmp_path).name
    assert backend.status(name).state == "running"
    assert wait(backend, name).state == "succeeded"


def test_the_error_that_a_worker_reports_is_the_status(tmp_path: Path) -> None:
    backend = LocalBackend()
    name = backend.ensure(make_job(tmp_path, fail_at=2))
    assert wait(backend, name) == JobStatus("failed", "the loss is not finite", final=True)


def test_a_killed_worker_is_a_failure_that_a_restart_may_cure(tmp_path: Path) -> None:
    backend = LocalBackend()
    name = backend.ensure(make_job(tmp_path, die_at=2))
    status = wait(backend, name)
    assert (status.state, status.final) == ("failed", False)
    assert "SIGKILL" in status.message
    # A process that did not start it knows the same, less the signal.
    assert LocalBackend().status(name).state == "failed"


def test_a_reused_process_number_is_not_the_job(tmp_path: Path) -> None:
    backend = LocalBackend()
    name = backend.ensure(make_job(tmp_path))
    wait(backend, name)
    record = (tmp_path / "job" / "job.json").read_text()
    pid = backend._children[name].pid
    (tmp_path / "job" / "job.json").write_text(record.replace(f'"pid": {pid}', f'"pid": {os.getpid()}'))
    assert LocalBackend().status(name).state == "succeeded"


def test_more_nodes_than_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="this machine only"):
        LocalBackend().ensure(dataclasses.replace(make_job(tmp_path), nodes=2))


def test_a_failure_and_a_stop_under_torchrun_are_distinguished(tmp_path: Path) -> None:
    backend = LocalBackend(grace_seconds=30)
    failed = backend.ensure(make_job(tmp_path / "a", devices=2, fail_at=2, steps=500, pause=0.05))
    stopped = backend.ensure(make_job(tmp_path / "b", devices=2, steps=1000, pause=0.05))
    wait_for_line(backend, stopped, "step 1/", times=2)
    backend.cancel(stopped)
    assert wait(backend, failed).message == "the loss is not finite"
    assert wait(backend, stopped).state == "interrupted"
    assert {p.name for p in (tmp_path / "b").glob("step-*")} == {"step-0", "step-1"}


def test_force_kills_workers_too_even_a_stopped_one(tmp_path: Path) -> None:
    """torchrun starts each worker in a session of its own, and SIGTERM does not reach a stopped process."""
    backend = LocalBackend()
    name = backend.ensure(make_job(tmp_path, devices=2, steps=1000, pause=0.05))
    wait_for_line(backend, name, "step 2/", times=2)
    workers = [json.loads((tmp_path / "job" / f"process-{rank}.json").read_text()) for rank in range(2)]
    os.kill(workers[1]["pid"], signal.SIGSTOP)
    assert all(processes.start_time(w["pid"]) == w["started"] for w in workers)
    backend.cancel(name, force=True)
    assert wait(backend, name).state == "failed"
    end = time.monotonic() + 10
    while any(processes.start_time(w["pid"]) == w["started"] for w in workers):
        assert time.monotonic() < end, "a worker is left"
        time.sleep(0.05)


def test_a_line_that_a_killed_attempt_left_unfinished_is_ended(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    job.log.parent.mkdir()
    job.log.write_text("step 1/")
    backend = LocalBackend()
    name = backend.ensure(job)
    assert wait(backend, name).state == "succeeded"
    assert [text for _, text in backend.logs(name)][:2] == ["step 1/", "starts at step 0"]


def test_a_start_clears_the_folders_and_an_attachment_does_not(tmp_path: Path) -> None:
    output = tmp_path / "output"
    job = dataclasses.replace(make_job(tmp_path), clears=[output])
    output.mkdir()
    (output / "old").touch()
    backend = LocalBackend()
    assert wait(backend, backend.ensure(job)).state == "succeeded"
    assert output.is_dir() and not (output / "old").exists()
    (output / "new").touch()
    backend.ensure(job)
    assert (output / "new").exists()
    repeated = dataclasses.replace(job, repeat=True)
    assert wait(backend, backend.ensure(repeated)).state == "succeeded"
    assert not (output / "new").exists()
    assert sum("starts" in text for _, text in backend.logs(job.name)) == 2


def test_names_of_deleted_jobs_are_dropped(tmp_path: Path) -> None:
    backend = LocalBackend(names=tmp_path / "names")
    first, second = make_job(tmp_path / "a"), make_job(tmp_path / "b")
    wait(backend, backend.ensure(first))
    shutil.rmtree(first.folder)
    wait(backend, backend.ensure(second))
    assert [link.name for link in (tmp_path / "names").iterdir()] == [second.name]
    assert LocalBackend(names=tmp_path / "names").status(second.name).state == "succeeded"
