# SPDX-License-Identifier: Apache-2.0
"""The process that a job starts: runs a module as `python -m` would, and writes down how it ended.

torchrun exits with 1 whatever its workers return, and a process that attaches by name cannot read an exit status; so
each worker writes `status-<rank>.json`, and `process-<rank>.json`, by which a back end finds workers whose torchrun has
died. Called as `python -m steerlm.jobs.worker FOLDER MODULE ARGUMENT...`. With STEERLM_LOG_FOLDER set, all output goes
to `rank-<rank>.log` there.
"""

import logging
import os
import re
import runpy
import signal
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import BaseModel

from steerlm.errors import PeerLostError, SteerLMError
from steerlm.files import write_json
from steerlm.processes import start_time
from steerlm.signals import CTRL_C_EXIT_CODE, SIGTERM_EXIT_CODE, ignore_sigterm, interrupt_on_sigterm

STATUS_FILE = "STEERLM_STATUS_FILE"
"""Environment variable that names this worker's status file."""
LOG_FOLDER = "STEERLM_LOG_FOLDER"
"""Environment variable that names the folder of the processes' logs; without it they write to their back end's."""
SAVED = SIGTERM_EXIT_CODE
"""Exit code of a worker that saved after a termination signal."""
log = logging.getLogger(__name__)


class _WorkerFile(BaseModel):
    @classmethod
    def read(cls, path: Path) -> Self:
        return cls.model_validate_json(path.read_bytes())

    def write(self, path: Path | str) -> None:
        write_json(path, self.model_dump())


class WorkerStatus(_WorkerFile):
    """`status-<rank>.json`.

    Attributes:
        final: Starting the job again cannot help.
        lost_peer: It ended because another process did, which is the cause if it has a status.
    """

    code: int
    error: str = ""
    final: bool = False
    lost_peer: bool = False

    @classmethod
    def of(cls, ending: BaseException | None) -> "WorkerStatus":
        """Return the status for what the module raised; None if it returned."""
        if ending is None:
            return cls(code=0)
        if isinstance(ending, SystemExit):
            code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
            return cls(code=code, error=ending.code if isinstance(ending.code, str) else "", final=code == 2)
        if isinstance(ending, KeyboardInterrupt):
            return cls(code=CTRL_C_EXIT_CODE)
        if isinstance(ending, SteerLMError):
            lost_peer = isinstance(ending, PeerLostError)
            return cls(code=ending.exit_code, error=str(ending), final=not lost_peer, lost_peer=lost_peer)
        return cls(code=1, error=f"{type(ending).__name__}: {ending}")


class WorkerProcess(_WorkerFile):
    """`process-<rank>.json`: the process and its start time, in the kernel's ticks."""

    pid: int
    started: str | None


def status_path(folder: Path, rank: int | str) -> Path:
    """Return the file with a worker's status."""
    return folder / f"status-{rank}.json"


def read_statuses(folder: Path) -> dict[int, WorkerStatus]:
    """Return the statuses that a job's workers have written, by rank."""
    named = ((re.fullmatch(r"status-(\d+)\.json", path.name), path) for path in folder.glob("status-*.json"))
    return {int(match[1]): WorkerStatus.read(path) for match, path in named if match}


def cause(statuses: Mapping[int, WorkerStatus]) -> tuple[int, WorkerStatus] | None:
    """Return which failure explains the others, with its rank; None if no worker failed.

    A final error comes before a crash, which comes before the loss of a peer.
    """
    failed = [(rank, status) for rank, status in sorted(statuses.items()) if status.code not in (0, SAVED)]
    order = lambda item: (not item[1].final, item[1].lost_peer, not item[1].error)  # noqa: E731
    return min(failed, key=order, default=None)


def signal_text(number: int) -> str:
    """Return the name of a signal that ended a process, with what it usually means.

    >>> signal_text(9)
    'SIGKILL (out of memory?)'
    """
    name = signal.Signals(number).name
    return f"{name} (out of memory?)" if name == "SIGKILL" else name


def main(arguments: list[str]) -> int:
    """Run the module and write its status; return its exit code."""
    folder, module = Path(arguments[0]), arguments[1]
    rank = os.environ.get("RANK", "0")
    os.environ[STATUS_FILE] = str(status_path(folder, rank))
    WorkerProcess(pid=os.getpid(), started=start_time(os.getpid())).write(folder / f"process-{rank}.json")
    sys.argv = [module, *arguments[2:]]
    ending: BaseException | None = None
    interrupt_on_sigterm("stopped before it started")  # until the module sets its own handler
    try:
        if LOG_FOLDER in os.environ:
            _redirect_output(Path(os.environ[LOG_FOLDER]) / f"rank-{rank}.log")
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except BaseException as error:
        ending = error
    ignore_sigterm()  # nothing may keep the status from being written
    if ending is not None and not isinstance(ending, SystemExit | KeyboardInterrupt):
        traceback.print_exception(ending)
    status = WorkerStatus.of(ending)
    status.write(os.environ[STATUS_FILE])
    return status.code


def _redirect_output(path: Path) -> None:
    """Append what this process and its libraries write to a file, as one stream."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o664)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.close(descriptor)


def report(error: SteerLMError) -> None:
    """Log an error that ends this process without its main thread, and write it to the worker's status."""
    log.error("%s", error)
    if STATUS_FILE in os.environ:
        WorkerStatus.of(error).write(os.environ[STATUS_FILE])


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)
