# SPDX-License-Identifier: Apache-2.0
"""How the module of a job's worker begins, whatever it computes: its argument, its log, its threads, its errors."""

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from steerlm.errors import ConfigError, SteerLMError
from steerlm.training.layout import LayoutSettings

log = logging.getLogger(__name__)


def begin(module: str, arguments: Sequence[str]) -> Path:
    """The spec that the worker was called with, its log set up: all of rank 0, warnings of the others.

    Raises `ConfigError` if it was not called with one.
    """
    if len(arguments) != 1:
        raise ConfigError(f"usage: python -m {module} SPEC.json")
    level = logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("megatron").setLevel(logging.WARNING)
    return Path(arguments[0])


def threads(layout: LayoutSettings) -> int:
    """CPU threads of one process."""
    return layout.threads or max(1, len(os.sched_getaffinity(0)) // layout.devices)


def exit_with_one_line() -> None:
    """Let an error of ours end this process with one line and its exit code, where torchrun was called by hand; whoever
    runs the module by name sees the error itself."""
    sys.excepthook = _say_and_exit


def _say_and_exit(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not isinstance(error, SteerLMError):
        sys.__excepthook__(kind, error, trace)
        return
    log.error("%s", error)
    logging.shutdown()
    sys.exit(error.exit_code)
