# SPDX-License-Identifier: Apache-2.0
"""The schema of every JSONL line the project reads or writes, and its parsing (docs/upstream.md#conversation-records).

Files are read line by line: memory does not grow with their size.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from steerlm.errors import RecordError, first_problem
from steerlm.files import open_text

Record = TypeVar("Record", bound=BaseModel)


class Line(BaseModel):
    """Base of all records: unknown keys are kept, absent keys stay absent."""

    model_config = ConfigDict(extra="allow", populate_by_name=True, strict=True)

    def to_json(self) -> str:
        """Return one line of JSON in the separators and key order of upstream's preprocessors, without a newline."""
        return json.dumps(self.model_dump(by_alias=True, exclude_unset=True), ensure_ascii=False)


class Turn(Line):
    """One message. `label` is None for an explicit null; use `"label" in turn.model_fields_set` for an absent key.

    `learned: false` (a history turn split off a prompt) keeps a turn out of the loss for as long as it has no label.
    """

    value: str
    speaker: str = Field(alias="from", min_length=1)
    label: str | None = None
    learned: bool = True


class Conversation(Line):
    """A conversation in the attribute-conditioned format: `conversations`, `system`, `mask`, `type`.

    `mask` names the speaker whose text is not learned. `type` absent with labels present means VALUE_TO_TEXT.
    """

    conversations: list[Turn] = Field(min_length=1)
    system: str = ""
    mask: str = "User"
    type: Literal["VALUE_TO_TEXT", "TEXT_TO_VALUE"] | None = None

    @model_validator(mode="after")
    def _no_label_mark_in_text(self) -> Self:
        for index, turn in enumerate(self.conversations):
            if "<extra_id_2>" in turn.value:
                raise ValueError(f"turn {index} contains the label mark <extra_id_2>, which would inject a label")
        return self


class RegressionSample(Line):
    """One sample for the reward model: a text that ends in the read-out mark, and a label vector in schema order."""

    text: str = Field(min_length=1)
    label: list[float] = Field(min_length=1)


class PlainText(Line):
    """One document of plain language modeling."""

    text: str = Field(min_length=1)


def parse_line(line: str, model: type[Record], path: str | Path, number: int) -> Record:
    """Parse one record; raises `RecordError` with file, line and the first error."""
    try:
        return model.model_validate_json(line)
    except ValidationError as error:
        raise RecordError(path, number, first_problem(error)) from None


def read_lines(
    path: str | Path, on_error: Callable[[RecordError, str], None] | None = None
) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, text) of a file or its `.gz` form. Blank lines are skipped.

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
                line = raw.decode("utf-8")
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
