# SPDX-License-Identifier: Apache-2.0
"""The process that a job starts: runs a module as `python -m` would and leaves behind how it ended.

torchrun answers 1 whatever its workers return, and a process that is attached to by name has no exit status to ask
for; so each worker writes `status-<rank>.json`: {"code", "error", "final"}. It also writes `process-<rank>.json`, by
which a back end finds workers that their torchrun has left behind. Called as
`python -m steerlm.jobs.worker FOLDER MODULE ARGUMENT...`.
"""

import logging
import os
import runpy
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType

from steerlm.errors import Interrupted, PeerLostError, SteerLMError
from steerlm.files import write_json
from steerlm.processes import started

STATUS_FILE = "STEERLM_STATUS_FILE"
"""Environment variable that names this worker's status file."""
log = logging.getLogger(__name__)


def main(arguments: list[str]) -> int:
    """Run the module; its exit code, after writing it down."""
    folder, module = Path(arguments[0]), arguments[1]
    rank = os.environ.get("RANK", "0")
    os.environ[STATUS_FILE] = str(folder / f"status-{rank}.json")
    write_json(folder / f"process-{rank}.json", {"pid": os.getpid(), "started": started(os.getpid())})
    sys.argv = [module, *arguments[2:]]
    ended: BaseException | None = None
    signal.signal(signal.SIGTERM, _interrupt)  # until the module sets its own
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except BaseException as error:
        ended = error
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it has ended, and how must be written down
    code, said, final = _ending(ended)
    write_json(os.environ[STATUS_FILE], {"code": code, "error": said, "final": final})
    return code


def report(error: SteerLMError) -> None:
    """Log an error that ends this process without its main thread, and write it down where a job's status is read."""
    log.error("%s", error)
    if STATUS_FILE in os.environ:
        code, said, final = error.exit_code, str(error), not isinstance(error, PeerLostError)
        write_json(os.environ[STATUS_FILE], {"code": code, "error": said, "final": final})


def _ending(ended: BaseException | None) -> tuple[int, str, bool]:
    """(code, error, final) of what the module raised; an error's trace is printed."""
    if ended is None:
        return 0, "", False
    if isinstance(ended, SystemExit):
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        return code, ended.code if isinstance(ended.code, str) else "", code == 2
    if isinstance(ended, KeyboardInterrupt):
        return 128 + signal.SIGINT, "", False
    traceback.print_exception(ended)
    if isinstance(ended, SteerLMError):
        return ended.exit_code, str(ended), not isinstance(ended, PeerLostError)
    return 1, f"{type(ended).__name__}: {ended}", False


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted("stopped before it began")


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)
