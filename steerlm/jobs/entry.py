# SPDX-License-Identifier: Apache-2.0
"""How every worker module of a job starts: it reads a typed spec, logs, stops on SIGTERM and reports its errors."""

import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from steerlm.errors import ConfigError, SteerLMError, first_problem
from steerlm.signals import interrupt_on_sigterm
from steerlm.training.layout import LayoutSettings

Spec = TypeVar("Spec", bound=BaseModel)
log = logging.getLogger(__name__)


def start(module: str, arguments: Sequence[str], spec_class: type[Spec]) -> Spec:
    """Set up logging, let SIGTERM raise `Interrupted`, and return the spec that the arguments name.

    Rank 0 logs everything, the other ranks only warnings.

    Raises:
        ConfigError: If the arguments are not one path, or the file there is not a spec of this class.
    """
    if len(arguments) != 1:
        raise ConfigError(f"usage: python -m {module} SPEC.json")
    level = logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("megatron").setLevel(logging.WARNING)
    interrupt_on_sigterm("stopped; finished parts are kept: run the same command again to resume")
    return read_spec(Path(arguments[0]), spec_class)


def read_spec(path: Path, spec_class: type[Spec]) -> Spec:
    """Read SPEC.json. Raises `ConfigError` that names the file and the wrong key."""
    try:
        return spec_class.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}:{error.lineno}: not JSON ({error.msg})") from None
    except ValidationError as error:
        raise ConfigError(f"{path}: {first_problem(error)}") from None


def threads(layout: LayoutSettings) -> int:
    """Return the number of CPU threads of one process."""
    return layout.threads or max(1, len(os.sched_getaffinity(0)) // layout.devices)


def exit_with_one_line() -> None:
    """Let a `SteerLMError` end this process with one line and its exit code.

    For a worker that torchrun runs as `__main__`; a caller of the module's `main` sees the error itself.
    """
    sys.excepthook = _log_and_exit


def _log_and_exit(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not isinstance(error, SteerLMError):
        sys.__excepthook__(kind, error, trace)
        return
    log.error("%s", error)
    logging.shutdown()
    sys.exit(error.exit_code)
