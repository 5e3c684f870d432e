# SPDX-License-Identifier: Apache-2.0
"""The errors that reach a user. Each message is one sentence: the place, what is wrong, what to do.

The command line prints the message without a traceback and exits with `exit_code`: 2 for bad input, 1 for a failure
at run time, 143 after a termination signal that was handled by saving.
"""

import difflib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails


class SteerLMError(Exception):
    """A failure at run time."""

    exit_code = 1


class InputError(SteerLMError):
    """Invalid input from the user: an option, a value, a model folder."""

    exit_code = 2


class RecordError(InputError):
    """An invalid line of a data file."""

    def __init__(self, path: str | Path, line: int, reason: str) -> None:
        super().__init__(f"{path}:{line}: {reason}")
        self.path, self.line, self.reason = str(path), line, reason

    def __reduce__(self) -> tuple[type, tuple[str, int, str]]:
        """Support pickling, so that the error can be raised in another process."""
        return type(self), (self.path, self.line, self.reason)


class ConfigError(InputError):
    """An invalid recipe, profile or `--set` override."""


class LabelError(InputError):
    """An unknown attribute, or a value out of range."""


class ModelError(InputError):
    """A model folder that is damaged or of an unsupported kind."""


class StorageError(SteerLMError):
    """A failed transfer, a wrong checksum or a damaged store."""


class SourceUnreachableError(StorageError):
    """A remote data source that cannot be fetched. `source`: its name, as the user wrote it."""

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(reason)
        self.source = source


class TrainingError(SteerLMError):
    """Training cannot continue: a loss that is not finite, a checkpoint that does not match."""


class NonFiniteError(TrainingError):
    """A loss or gradient norm that is not finite, detected before the update. `grad_norm`: None if it is the loss."""

    def __init__(self, loss: float, grad_norm: float | None = None) -> None:
        super().__init__(f"the loss is {loss}" if grad_norm is None else f"the gradient norm is {grad_norm}")
        self.loss, self.grad_norm = loss, grad_norm


class PeerLostError(TrainingError):
    """Another process of the job has died; a restart resumes from the newest checkpoint."""


class SupersededError(SteerLMError):
    """A later attempt of the same job has been started, so this one must not publish anything."""


class Interrupted(SteerLMError):  # noqa: N818 (not a failure)
    """A termination signal arrived; the state was saved and the work can be resumed."""

    exit_code = 143


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the known name nearest to `name`, or the list of known names."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the error's type if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def first_problem(error: "ValidationError") -> str:
    """Return `key.subkey: problem` of the first error in a pydantic validation."""
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"]))
    return f"{key}: {problem(first)}" if key else problem(first)


def problem(error: "ErrorDetails") -> str:
    """Return what is wrong with a value, in our words: what was expected and what was given.

    Every message about a recipe, a profile, `--set`, a record or a model's config comes from here.
    """
    kind, context = error["type"], error.get("ctx", {})
    if kind == "missing":
        return "is missing"
    if kind == "value_error":
        return error["msg"].removeprefix("Value error, ")
    if kind == "extra_forbidden":
        return "unknown key"
    expected = _EXPECTED.get(kind)
    if expected is None:
        return error["msg"]
    plain = {name: f"{value:g}" if isinstance(value, float) else value for name, value in context.items()}
    text = expected.format(**plain)
    if kind == "union_tag_not_found":
        return text
    return f"{text} was expected, not {shown(context.get('tag', error['input']))}"


def shown(value: object, length: int = 40) -> str:
    """Return a value as JSON writes it, shortened."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except ValueError:
        text = str(value)
    return text if len(text) <= length else f"{text[: length - 3]}..."


_NUMBER, _WHOLE, _TEXT, _LIST, _MAPPING = "a number", "a whole number", "a string", "a list", "an object with keys"
_EXPECTED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": _MAPPING,
    "enum": "{expected}",
    "finite_number": "a finite number",
    "float_parsing": _NUMBER,
    "float_type": _NUMBER,
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "int_from_float": _WHOLE,
    "int_parsing": _WHOLE,
    "int_parsing_size": _WHOLE,
    "int_type": _WHOLE,
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
    "list_type": _LIST,
    "literal_error": "{expected}",
    "mapping_type": _MAPPING,
    "model_attributes_type": _MAPPING,
    "model_type": _MAPPING,
    "none_required": "null",
    "path_type": "a path",
    "string_pattern_mismatch": "a string that matches {pattern}",
    "string_too_long": "a string of no more than {max_length} characters",
    "string_too_short": "a string of {min_length} or more characters",
    "string_type": _TEXT,
    "string_unicode": _TEXT,
    "too_long": "a list of no more than {max_length} items",
    "too_short": "a list of {min_length} or more items",
    "tuple_type": _LIST,
    "union_tag_invalid": "a {discriminator} of {expected_tags}",
    "union_tag_not_found": "its key {discriminator} is missing",
}
"""What pydantic expected, by its type of error, as our files call it."""
