# SPDX-License-Identifier: Apache-2.0
"""The back end that runs a job on this machine: one process, or torchrun with several.

Everything it knows stands in the job's folder (`job.json`: process, its start time, the spec's hash; `spec.json`;
`status-<rank>.json` and `process-<rank>.json`; `cancelled`), so that another process attaches to a job that is still
running. The job leads a session of its own: it outlives its launcher, and a Ctrl-C reaches it by the launcher only.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from steerlm import processes
from steerlm.errors import InputError, SteerLMError
from steerlm.files import write_json
from steerlm.jobs.backend import Job, JobStatus
from steerlm.jobs.environment import added_to

SAVED = 128 + signal.SIGTERM
"""What a worker exits with after a termination signal that it handled by saving."""

CANCELLED = "cancelled"


class LocalBackend:
    """Jobs of this machine; a job's name is its folder, which is how any process finds it again."""

    def __init__(self, grace_seconds: float = 300.0) -> None:
        self.grace_seconds = grace_seconds
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def ensure(self, job: Job) -> str:
        """See `Backend.ensure`."""
        if job.nodes > 1:
            raise InputError(
                f"{job.name} wants {job.nodes} nodes, the local back end has this machine only: "
                f"use a profile of one node (its layout now: {job.nodes} x {job.devices} processes)"
            )
        name = str(job.folder.resolve())
        record = self._record(name)
        if record and _alive(record):
            if record["hash"] != job.hash():
                raise SteerLMError(
                    f"{job.name} runs already with other settings (process {record['pid']}, {name}); "
                    "wait for it or end it"
                )
            return name
        if record and record["hash"] == job.hash() and self.status(name).state == "succeeded":
            return name
        job.folder.mkdir(parents=True, exist_ok=True)
        job.log.parent.mkdir(parents=True, exist_ok=True)
        _kill_workers(job.folder)  # of a torchrun that was killed: they are in sessions of their own
        left = (path for kind in ("status", "process") for path in job.folder.glob(f"{kind}-*.json"))
        for path in (*left, job.folder / CANCELLED):
            path.unlink(missing_ok=True)
        write_json(job.folder / "spec.json", job.spec)
        with open(job.log, "ab") as log:
            child = subprocess.Popen(
                self._command(job),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={
                    **added_to(os.environ, job.environment),
                    "OMP_NUM_THREADS": str(job.threads),
                    "PYTHONUNBUFFERED": "1",
                },
            )
        self._children[name] = child
        record = {
            "name": job.name,
            "hash": job.hash(),
            "pid": child.pid,
            "started": processes.started(child.pid),
            "processes": job.processes,
            "log": str(job.log.resolve()),
        }
        write_json(job.folder / "job.json", record)
        return name

    def status(self, name: str) -> JobStatus:
        """See `Backend.status`. Of several workers, the first that failed by itself speaks for all."""
        record = self._record(name)
        if record is None:
            return JobStatus("failed", f"{name}: no such job")
        if name in self._children:
            self._children[name].poll()
        if _alive(record):
            return JobStatus("running")
        statuses = [json.loads(p.read_text()) for p in sorted(Path(name).glob("status-*.json"))]
        codes = [s["code"] for s in statuses]
        failed = sorted(
            (s for s in statuses if s["code"] not in (0, SAVED)), key=lambda s: (not s["error"], not s["final"])
        )
        if failed:
            first = failed[0]
            message = first["error"] or f"exit status {first['code']}"
            return JobStatus("failed", message, final=first["final"], exit_code=2 if first["code"] == 2 else 1)
        if codes and len(codes) == record["processes"]:
            return JobStatus("interrupted" if SAVED in codes else "succeeded")
        if (Path(name) / CANCELLED).exists():  # a process that had not come far enough to say so was stopped too
            return JobStatus("interrupted")
        missing = record["processes"] - len(codes)
        return JobStatus("failed", f"{missing} of {record['processes']} processes {self._end(name)}")

    def logs(self, name: str, since: int = 0) -> Iterator[tuple[int, str]]:
        """See `Backend.logs`; offsets are bytes of the log file."""
        record = self._record(name)
        if record is None or not Path(record["log"]).exists():
            return
        with open(record["log"], "rb") as file:
            file.seek(since)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                since += len(line)
                yield since, line.decode("utf-8", "replace").rstrip("\n")

    def cancel(self, name: str, *, force: bool = False) -> None:
        """See `Backend.cancel`. torchrun hands the signal on; `force` kills it and its workers, stopped ones too."""
        record = self._record(name)
        if record is None or not _alive(record):
            return
        if force:
            os.killpg(record["pid"], signal.SIGKILL)
            _kill_workers(Path(name))
        else:
            (Path(name) / CANCELLED).touch()
            os.kill(record["pid"], signal.SIGTERM)

    def _command(self, job: Job) -> list[str]:
        worker = ["-m", "steerlm.jobs.worker", str(job.folder), job.module, str(job.folder / "spec.json")]
        if job.processes == 1:
            return [sys.executable, *worker]
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(job.devices)]
        return [sys.executable, *torchrun, "--shutdown-timeout", str(int(self.grace_seconds)), *worker]

    def _record(self, name: str) -> dict[str, Any] | None:
        path = Path(name) / "job.json"
        if not path.exists():
            return None
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return record

    def _end(self, name: str) -> str:
        child = self._children.get(name)
        code = child.returncode if child else None
        if code is not None and code < 0:
            by = signal.Signals(-code).name
            return f"were killed by {by}" + (" (out of memory?)" if by == "SIGKILL" else "")
        return "died without a word (killed? out of memory?)"


def _kill_workers(folder: Path) -> None:
    """torchrun starts every worker in a session of its own, which no signal to torchrun's reaches."""
    for path in folder.glob("process-*.json"):
        worker = json.loads(path.read_text(encoding="utf-8"))
        processes.kill(worker["pid"], worker["started"])


def _alive(record: dict[str, Any]) -> bool:
    """Whether the recorded process runs; a process that took over its number is another one."""
    started = processes.started(record["pid"])
    return started is not None and started == record["started"]
