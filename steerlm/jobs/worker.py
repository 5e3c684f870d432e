"""The process that a job starts: runs a module as `python -m` would and leaves behind how it ended.

torchrun answers 1 whatever its workers return, and a process that is attached to by name has no exit status to ask
for; so each worker writes `status-<rank>.json`: {"code", "error", "final"}. Called as
`python -m steerlm.jobs.worker FOLDER MODULE ARGUMENT...`.
"""

import os
import runpy
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType

from steerlm.errors import Interrupted, PeerLostError, SteerLMError
from steerlm.records import write_json


def main(arguments: list[str]) -> int:
    """Run the module; its exit code, after writing it down."""
    folder, module = Path(arguments[0]), arguments[1]
    sys.argv = [module, *arguments[2:]]
    code, error, final = 0, "", False
    signal.signal(signal.SIGTERM, _interrupt)  # until the module sets its own
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
        error = exit_.code if isinstance(exit_.code, str) else ""
        final = code == 2
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except SteerLMError as known:
        code, error, final = known.exit_code, str(known), not isinstance(known, PeerLostError)
        traceback.print_exc()
    except BaseException as unknown:
        code, error = 1, f"{type(unknown).__name__}: {unknown}"
        traceback.print_exc()
    rank = os.environ.get("RANK", "0")
    write_json(folder / f"status-{rank}.json", {"code": code, "error": error, "final": final})
    return code


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted("stopped before it began")


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)
