# SPDX-License-Identifier: Apache-2.0
"""The back end that runs a job on this machine: one process, or torchrun with several.

Its state is in files, so that another process can attach to a running job: in the job's folder `job.json` (process,
start time, hash of the spec), `spec.json`, `status-<rank>.json`, `process-<rank>.json` and `canceled`; in the user's
cache folder a link from the job's name to that folder. A job runs in a session of its own: it outlives its launcher,
and a Ctrl-C reaches it only through the launcher.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pydantic import BaseModel

from steerlm import processes
from steerlm.errors import InputError, SteerLMError
from steerlm.files import cache_folder, write_json
from steerlm.jobs.backend import Job, JobStatus, complete_lines
from steerlm.jobs.environment import process_environment
from steerlm.jobs.worker import SAVED, WorkerProcess, cause, read_statuses, signal_text

CANCELED = "canceled"


class LocalBackend:
    """Jobs on this machine.

    Args:
        grace_seconds: How long torchrun waits for its workers to save.
        names: Folder of the links from names to job folders; default: in the user's cache folder.
    """

    max_nodes = 1

    def __init__(self, grace_seconds: float = 300.0, names: Path | None = None) -> None:
        self.grace_seconds = grace_seconds
        self._names = names or cache_folder() / "jobs"
        self._folders: dict[str, Path] = {}
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def ensure(self, job: Job) -> str:
        """See `Backend.ensure`."""
        if job.nodes > self.max_nodes:
            raise InputError(
                f"{job.name} has {job.nodes} nodes and the back end local runs jobs on this machine only: "
                f"use a profile of one node (its layout now: {job.nodes} x {job.devices} processes)"
            )
        self._register(job)
        record = _JobRecord.read(job.folder)
        if record and record.alive():
            if record.hash != job.hash():
                raise SteerLMError(
                    f"{job.name} is already running with other settings (process {record.pid}, {job.folder}); "
                    "wait for it to end, or end it"
                )
            return job.name
        if record and record.hash == job.hash() and not job.repeat and self.status(job.name).state == "succeeded":
            return job.name
        self._start(job)
        return job.name

    def status(self, name: str) -> JobStatus:
        """See `Backend.status`. If several workers failed, `cause` says which of them determines it."""
        folder, record = self._find(name)
        if folder is None or record is None:
            return JobStatus("failed", f"{name}: no such job")
        if name in self._children:
            self._children[name].poll()
        if record.alive():
            return JobStatus("running")
        statuses = read_statuses(folder)
        if found := cause(statuses):
            _, first = found
            message = first.error or f"exit status {first.code}"
            return JobStatus("failed", message, final=first.final, exit_code=2 if first.code == 2 else 1)
        codes = [status.code for status in statuses.values()]
        if codes and len(codes) == record.processes:
            return JobStatus("interrupted" if SAVED in codes else "succeeded")
        if (folder / CANCELED).exists():  # including a process that was stopped before it could write a status
            return JobStatus("interrupted")
        missing = record.processes - len(codes)
        return JobStatus("failed", f"{missing} of {record.processes} processes {self._death(name)}")

    def logs(self, name: str, since: int = 0) -> Iterator[tuple[int, str]]:
        """See `Backend.logs`. Offsets are bytes of the log file."""
        _, record = self._find(name)
        if record is not None:
            yield from complete_lines(record.log, since)

    def logged(self, job: Job) -> int:
        """See `Backend.logged`."""
        record = _JobRecord.read(job.folder)
        return max((end for end, _ in complete_lines(record.log)), default=0) if record else 0

    def cancel(self, name: str, *, force: bool = False) -> None:
        """See `Backend.cancel`. torchrun passes the signal on; `force` kills it and its workers, stopped ones too."""
        folder, record = self._find(name)
        if folder is None or record is None or not record.alive():
            return
        if force:
            os.killpg(record.pid, signal.SIGKILL)
            _kill_workers(folder)
        else:
            (folder / CANCELED).touch()
            os.kill(record.pid, signal.SIGTERM)

    def written(self, name: str, root: Path) -> None:
        """See `Backend.written`."""

    def wait(self, seconds: float) -> None:
        """See `Backend.wait`."""
        time.sleep(seconds)

    def drained(self) -> bool:
        """See `Backend.drained`. A job on this machine ends with its launcher."""
        return False

    def _start(self, job: Job) -> None:
        job.folder.mkdir(parents=True, exist_ok=True)
        job.log.parent.mkdir(parents=True, exist_ok=True)
        _kill_workers(job.folder)  # of a torchrun that was killed: they are in sessions of their own
        stale = [path for kind in ("status", "process") for path in job.folder.glob(f"{kind}-*.json")]
        for path in (*stale, job.folder / CANCELED):
            path.unlink(missing_ok=True)
        for folder in job.clears:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        write_json(job.folder / "spec.json", job.spec_json())
        with open(job.log, "ab+") as log:
            _end_line(log)
            child = subprocess.Popen(
                self._command(job),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=process_environment(job.environment, job.threads, job.devices),
            )
        self._children[job.name] = child
        record = _JobRecord(
            name=job.name,
            hash=job.hash(),
            pid=child.pid,
            started=processes.start_time(child.pid),
            processes=job.processes,
            log=job.log.resolve(),
        )
        record.write(job.folder)

    def _command(self, job: Job) -> list[str]:
        worker = ["-m", "steerlm.jobs.worker", str(job.folder), job.module, str(job.folder / "spec.json")]
        if job.processes == 1:
            return [sys.executable, *worker]
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(job.devices)]
        return [sys.executable, *torchrun, "--shutdown-timeout", str(int(self.grace_seconds)), *worker]

    def _register(self, job: Job) -> None:
        """Link the job's name to its folder, and drop links to folders that were deleted."""
        folder = job.folder.resolve()
        self._folders[job.name] = folder
        with contextlib.suppress(OSError):  # a read-only home: other processes then do not find the job by name
            self._names.mkdir(parents=True, exist_ok=True)
            for link in self._names.iterdir():
                if not link.exists():
                    link.unlink(missing_ok=True)
            folder.mkdir(parents=True, exist_ok=True)
            link = self._names / job.name
            if not link.exists() or link.resolve() != folder:
                fresh = self._names / f".{job.name}.{os.getpid()}"
                fresh.symlink_to(folder)
                fresh.rename(link)

    def _find(self, name: str) -> "tuple[Path | None, _JobRecord | None]":
        folder = self._folders.get(name)
        if folder is None and (self._names / name).exists():
            folder = (self._names / name).resolve()
        return folder, _JobRecord.read(folder) if folder else None

    def _death(self, name: str) -> str:
        child = self._children.get(name)
        code = child.returncode if child else None
        if code is not None and code < 0:
            return f"were killed by {signal_text(-code)}"
        return "died without an error message (killed? out of memory?)"


class _JobRecord(BaseModel):
    """`job.json`."""

    name: str
    hash: str
    pid: int
    started: str | None
    processes: int
    log: Path

    @classmethod
    def read(cls, folder: Path) -> "_JobRecord | None":
        path = folder / "job.json"
        return cls.model_validate_json(path.read_bytes()) if path.exists() else None

    def write(self, folder: Path) -> None:
        write_json(folder / "job.json", self.model_dump(mode="json"))

    def alive(self) -> bool:
        """Return whether the process is running; one that took over its number has another start time."""
        started = processes.start_time(self.pid)
        return started is not None and started == self.started


def _end_line(log: BinaryIO) -> None:
    """End the line that a killed attempt has left unfinished."""
    if log.tell():
        log.seek(-1, os.SEEK_END)
        if log.read(1) != b"\n":
            log.write(b"\n")
            log.flush()


def _kill_workers(folder: Path) -> None:
    """Kill the workers one by one: torchrun starts each in a session of its own, which killpg does not reach."""
    for path in folder.glob("process-*.json"):
        worker = WorkerProcess.read(path)
        processes.kill(worker.pid, worker.started)
