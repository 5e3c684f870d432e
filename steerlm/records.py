# SPDX-License-Identifier: Apache-2.0
"""The schema of every JSONL line the project reads or writes, and its parsing (docs/upstream.md#conversation-records).

Files are read line by line: memory does not grow with their size.
"""

import codecs
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from steerlm.attributes import MASKED, format_labels, parse_labels
from steerlm.errors import LabelError, RecordError, first_problem
from steerlm.files import open_text

Record = TypeVar("Record", bound=BaseModel)

SPEAKERS = ("User", "Assistant")
"""The names that turns may have."""


def null_is(default: Any) -> BeforeValidator:
    """Return a validator for a field that takes null, which other tools write for an absent key, as its default."""
    return BeforeValidator(lambda value: default if value is None else value)


class Line(BaseModel):
    """Base of all records: unknown keys are kept, absent keys stay absent."""

    model_config = ConfigDict(extra="allow", populate_by_name=True, strict=True)

    def to_json(self) -> str:
        """Return one line of JSON in the separators and key order of upstream's preprocessors, without a newline."""
        return json.dumps(self.model_dump(by_alias=True, exclude_unset=True), ensure_ascii=False)


class Turn(Line):
    """One message. `label` is None for an explicit null; use `"label" in turn.model_fields_set` for an absent key.

    A label that is written in another way than ours, such as `quality: 3.0`, becomes `quality:3` when it is read, so
    that one value is one text to the model. `learned: false` (a history turn split off a prompt) keeps a turn out of
    the loss for as long as it has no label.
    """

    value: str
    speaker: str = Field(alias="from", min_length=1)
    label: str | None = None
    learned: Annotated[bool, null_is(True)] = True

    @field_validator("label")
    @classmethod
    def _canonical_label(cls, value: str | None) -> str | None:
        try:
            return format_labels(parse_labels(value)) if value else value
        except LabelError as error:
            raise ValueError(str(error)) from None


class Conversation(Line):
    """A conversation in the attribute-conditioned format: `conversations`, `system`, `mask`, `type`.

    Turns are from `SPEAKERS`. `mask` names the one whose text is not learned, and has at least one turn. `type` absent
    with labels present means VALUE_TO_TEXT.
    """

    conversations: list[Turn] = Field(min_length=1)
    system: Annotated[str, null_is("")] = ""
    mask: Annotated[str, null_is("User")] = "User"
    type: Literal["VALUE_TO_TEXT", "TEXT_TO_VALUE"] | None = None

    @model_validator(mode="after")
    def _no_label_mark_in_text(self) -> Self:
        for index, turn in enumerate(self.conversations):
            if "<extra_id_2>" in turn.value:
                raise ValueError(f"turn {index} contains the label mark <extra_id_2>, which would inject a label")
        return self

    @model_validator(mode="after")
    def _known_speakers(self) -> Self:
        """Refuse turns whose role would be a guess."""
        for index, turn in enumerate(self.conversations):
            if turn.speaker not in SPEAKERS:
                raise ValueError(
                    f"conversations.{index}.from is {turn.speaker!r}, expected {' or '.join(SPEAKERS)}; "
                    "steerlm data convert maps other names, and a system turn to the key system"
                )
        speakers = {turn.speaker for turn in self.conversations}
        if self.mask not in speakers:
            raise ValueError(
                f"no turn is from {self.mask!r}, the masked role; turns are from {', '.join(sorted(speakers))}"
            )
        return self


def _masked(label: Any) -> Any:
    return [MASKED if value is None else value for value in label] if isinstance(label, list) else label


class RegressionSample(Line):
    """One sample for the reward model: a text that ends in the read-out mark, and a label vector in schema order.

    Null in the vector means no label, as `MASKED` does.
    """

    text: str = Field(min_length=1)
    label: Annotated[list[float], BeforeValidator(_masked)] = Field(min_length=1)


class PlainText(Line):
    """One document of plain language modeling."""

    text: str = Field(min_length=1)


def parse_line(line: str, model: type[Record], path: str | Path, number: int) -> Record:
    """Parse one record; raises `RecordError` with file, line and the first error."""
    try:
        return model.model_validate_json(line)
    except ValidationError as error:
        raise RecordError(path, number, first_problem(error) + _other_kind(line, model)) from None


def _other_kind(line: str, model: type[Record]) -> str:
    """Return what to do with a line that is a record of another kind; "" if it is of none that is known."""
    if model is RegressionSample and '"conversations"' in line:
        return "; this is a conversation: steerlm data regression makes the reward model's samples of conversations"
    if model is Conversation and '"text"' in line and '"label"' in line and '"conversations"' not in line:
        return "; this is a sample of the reward model, a conversation was expected"
    return ""


def decode_line(raw: bytes) -> str:
    """Return a line's text without a byte-order mark, which joined files may have at any line, not only at the first.

    Raises `UnicodeDecodeError`.
    """
    return raw.removeprefix(codecs.BOM_UTF8).decode("utf-8")


def read_lines(
    path: str | Path, on_error: Callable[[RecordError, str], None] | None = None
) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, text) of a file or its `.gz` form. Blank lines and byte-order marks are skipped.

    A line that is not UTF-8 raises `RecordError`, or is passed to `on_error` and skipped. A broken gzip file always
    raises.
    """
    number = 0
    with open_text(path) as file:
        lines = enumerate(file.buffer, 1)
        while True:
            try:
                number, raw = next(lines)
            except StopIteration:
                return
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise RecordError(path, number + 1, f"broken gzip file ({error})") from None
            try:
                line = decode_line(raw)
            except UnicodeDecodeError as error:
                bad = RecordError(path, number, f"not UTF-8 ({error.reason})")
                if on_error is None:
                    raise bad from None
                on_error(bad, raw.decode("utf-8", errors="replace"))
                continue
            if line.strip():
                yield number, line


def read_records(
    path: str | Path, model: type[Record], on_error: Callable[[RecordError, str], None] | None = None
) -> Iterator[tuple[int, Record]]:
    """Yield (line number from 1, record). Blank lines are skipped.

    A bad line raises `RecordError`, or is passed to `on_error` with its text and skipped.
    """
    for number, line in read_lines(path, on_error):
        try:
            record = parse_line(line, model, path, number)
        except RecordError as error:
            if on_error is None:
                raise
            on_error(error, line)
            continue
        yield number, record
