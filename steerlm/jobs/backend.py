# SPDX-License-Identifier: Apache-2.0
"""A job and the verbs of a back end that runs it. A job is addressed by name, so that any process can come back to it.

Waiting, attempts and signals live once, above all back ends, in `launcher.py`.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

State = Literal["waiting", "running", "succeeded", "failed", "interrupted"]


@dataclass(frozen=True, slots=True)
class Job:
    """`python -m MODULE SPEC.json` on `nodes` x `devices` processes.

    `name`: letters, digits and hyphens. `folder`: where its records lie (spec, process, statuses). `log`: where its
    output goes. `threads`: CPU threads per process. `environment`: variables that the processes start with, unless the
    user has set them.
    """

    name: str
    module: str
    spec: Mapping[str, Any]
    folder: Path
    log: Path
    nodes: int = 1
    devices: int = 1
    threads: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def processes(self) -> int:
        return self.nodes * self.devices

    def hash(self) -> str:
        """Of what must agree for a running job to be this one."""
        what = [self.module, self.spec, self.nodes, self.devices]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class JobStatus:
    """`message`: of a job that failed, what it said. `final`: starting it again cannot help. `exit_code`: the one the
    error asks for."""

    state: State
    message: str = ""
    final: bool = False
    exit_code: int = 1

    @property
    def ended(self) -> bool:
        return self.state in ("succeeded", "failed", "interrupted")


class Backend(Protocol):
    """Where jobs run. Every verb may be called by another process than the one that called `ensure`."""

    def ensure(self, job: Job) -> str:
        """Start the job, or attach to it if it runs or has succeeded with the same spec; its name. A job that ended
        otherwise is started again. Raises `SteerLMError` if one of the name runs with another spec, `InputError` if
        the back end cannot run it."""

    def status(self, name: str) -> JobStatus:
        """How it stands; `failed` for a job nobody knows."""

    def logs(self, name: str, since: int = 0) -> Iterator[tuple[int, str]]:
        """The complete lines there are from offset `since`, each with the offset behind it."""

    def cancel(self, name: str, *, force: bool = False) -> None:
        """Ask it to save and stop; `force`: end it at once. Nothing happens if it has ended."""
