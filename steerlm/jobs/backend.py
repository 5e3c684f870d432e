# SPDX-License-Identifier: Apache-2.0
"""A job, and the protocol of a back end that runs jobs. A job is addressed by name, so any process can attach to it.

Waiting, retries and signals are implemented once, above all back ends, in `launcher.py`.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import BaseModel

from steerlm.checksums import FileDigest

State = Literal["queued", "starting", "running", "succeeded", "failed", "interrupted"]

NAME_LENGTH = 63
"""Longest RFC 1123 label: Kubernetes names pods and services by it."""
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")


def job_name(title: str, folder: Path) -> str:
    """Return an RFC 1123 label for the job `title` whose records are in `folder`, unique to that folder."""
    digest = hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:8]
    label = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[: NAME_LENGTH - len(digest) - 1].rstrip("-")
    return f"{label}-{digest}" if label else f"job-{digest}"


@dataclass(frozen=True, slots=True)
class Job:
    """`python -m MODULE SPEC.json` on `nodes` x `devices` processes.

    Attributes:
        name: An RFC 1123 label (`job_name`); the other verbs of a back end address the job by it.
        module: The worker's module.
        spec: The content of the worker's SPEC.json.
        folder: Where a back end keeps the job's records.
        log: Where a back end keeps the output of every attempt.
        threads: CPU threads per process; None: the back end divides a machine's cores among its processes.
        environment: Variables that the processes start with, unless the user has set them.
        clears: Folders to empty before the job starts, never when it is attached to.
        image: Name of the container image that it runs in, where the back end has any.
        repeat: Start again after success; otherwise a job that has succeeded with this spec is not run again.
    """

    name: str
    module: str
    spec: BaseModel | Mapping[str, Any]
    folder: Path
    log: Path
    nodes: int = 1
    devices: int = 1
    threads: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    clears: Sequence[Path] = ()
    image: str = "train-sft"
    repeat: bool = False

    def __post_init__(self) -> None:
        if len(self.name) > NAME_LENGTH or not _LABEL.fullmatch(self.name):
            raise ValueError(f"job name {self.name!r} is not an RFC 1123 label; make it with job_name()")

    @property
    def processes(self) -> int:
        """Number of processes over all nodes."""
        return self.nodes * self.devices

    def spec_json(self) -> dict[str, Any]:
        """Return the content of SPEC.json as plain JSON values."""
        return self.spec.model_dump(mode="json") if isinstance(self.spec, BaseModel) else dict(self.spec)

    def hash(self) -> str:
        """Return the digest of what a running job must share with this one to be attached to."""
        identity = [self.module, self.spec_json(), self.nodes, self.devices]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class JobStatus:
    """The state of a job.

    Attributes:
        state: "queued": waits for a queue, or is suspended; "starting": admitted, not all processes are there yet.
        message: Why the job failed, as its worker reported it; while it waits, what for.
        final: Starting the job again cannot help.
        exit_code: The exit code for a command that reports the failure.
        progress: A text that changes when the job makes progress, beside the lines that it logs.
        starts: How often this run has started the job; None: the launcher counts.
        idle_starts: How many of the last starts have reached no new step.
        tail: The last lines of the process that failed first, if it is not the one whose lines `logs` yields.
    """

    state: State
    message: str = ""
    final: bool = False
    exit_code: int = 1
    progress: str = ""
    starts: int | None = None
    idle_starts: int = 0
    tail: Sequence[str] = ()

    @property
    def ended(self) -> bool:
        """Whether the job has succeeded, failed or been interrupted; False while it waits, starts or runs."""
        return self.state in ("succeeded", "failed", "interrupted")


def complete_lines(path: Path, start: int = 0) -> Iterator[tuple[int, str]]:
    """Yield the complete lines of a log from byte `start` on, each with the offset behind it, if it exists."""
    if not path.exists():
        return
    with open(path, "rb") as file:
        file.seek(start)
        for line in file:
            if not line.endswith(b"\n"):
                return
            start += len(line)
            yield start, line.decode("utf-8", "replace").rstrip("\n")


class Backend(Protocol):
    """Where jobs run. Every verb may be called by another process than the one that called `ensure`."""

    @property
    def max_nodes(self) -> int | None:
        """Most nodes a job may have; None if there is no limit."""
        ...

    def ensure(self, job: Job) -> str:
        """Start the job, or attach to it if it is running or has succeeded with the same spec; return its name.

        A job that failed or was interrupted is started again, and so is a succeeded one if `job.repeat`.

        Raises:
            SteerLMError: A job of this name is running with another spec.
            InputError: The back end cannot run the job.
        """
        ...

    def status(self, name: str) -> JobStatus:
        """Return the job's status; `failed` for an unknown name."""
        ...

    def logs(self, name: str, since: int = 0) -> Iterator[tuple[int, str]]:
        """Yield the complete lines logged so far after offset `since`, each with the offset behind it.

        The attempts of a job share one log, so an offset stays valid. An unknown name has no lines.
        """
        ...

    def logged(self, job: Job) -> int:
        """Return the offset behind the complete lines that the job's attempts have logged so far.

        Call it before `ensure` to follow what comes after it, also of a job that this back end has not seen yet.
        """
        ...

    def cancel(self, name: str, *, force: bool = False) -> None:
        """Request that the job save and stop; `force`: kill it. Does nothing if it has ended."""
        ...

    def written(self, name: str, root: Path) -> Mapping[str, FileDigest] | None:
        """Return what a succeeded job says it has written, by path relative to `root`, once all of it is seen here.

        None: the job wrote to a file system that shows everything at once.

        Raises:
            StorageError: Something is not seen in time.
        """
        ...

    def wait(self, seconds: float) -> None:
        """Return when something may have changed, after `seconds` at the latest."""
        ...

    def drained(self) -> bool:
        """Return whether this launcher is only moved elsewhere, so that the job goes on for its successor."""
        ...
