# SPDX-License-Identifier: Apache-2.0
"""The errors a user may meet. Each is one clear sentence: what was wrong, where, what to do.

The command line prints the message without a traceback and exits with `exit_code`: 2 for bad input, 1 for a failure
at run time, 143 after a termination signal that was handled by saving.
"""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class SteerLMError(Exception):
    """A failure at run time."""

    exit_code = 1


class InputError(SteerLMError):
    """Something the user gave is wrong: an option, a value, a model folder."""

    exit_code = 2


class RecordError(InputError):
    """A line of a data file is wrong."""

    def __init__(self, path: str | Path, line: int, reason: str) -> None:
        super().__init__(f"{path}:{line}: {reason}")
        self.path, self.line, self.reason = str(path), line, reason

    def __reduce__(self) -> tuple[type, tuple[str, int, str]]:
        """To another process, which an exception's message alone would not bring back."""
        return type(self), (self.path, self.line, self.reason)


class ConfigError(InputError):
    """A recipe, a profile or a `--set` override is wrong."""


class LabelError(InputError):
    """An attribute is unknown or its value is out of range."""


class ModelError(InputError):
    """A model folder cannot be used as asked."""


class StorageError(SteerLMError):
    """A transfer, a checksum or a store failed."""


class SourceUnreachableError(StorageError):
    """A data source elsewhere cannot be fetched. `source`: as it was given; how to name another, the caller knows."""

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(reason)
        self.source = source


class TrainingError(SteerLMError):
    """Training cannot go on: a loss that is not finite, a checkpoint that does not fit."""


class NonFiniteError(TrainingError):
    """A loss or gradient norm that is not finite, found before its update. `grad_norm`: None if the loss was it."""

    def __init__(self, loss: float, grad_norm: float | None = None) -> None:
        super().__init__(f"the loss is {loss}" if grad_norm is None else f"the gradient norm is {grad_norm}")
        self.loss, self.grad_norm = loss, grad_norm


class PeerLostError(TrainingError):
    """Another process of the job is gone; starting again goes on from the newest checkpoint."""


class Interrupted(SteerLMError):  # noqa: N818 (not a failure)
    """A termination signal arrived; the state was saved and the work can be resumed."""

    exit_code = 143


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the known name nearest to `name`, or the list of known names."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"


def first_line(error: BaseException) -> str:
    """Of what an error of another library says; its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def first_problem(error: "ValidationError") -> str:
    """`key.below: what is wrong there`, of the first thing that pydantic refuses."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message
