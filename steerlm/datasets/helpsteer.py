# SPDX-License-Identifier: Apache-2.0
"""HelpSteer: each row, a prompt and a rated response, becomes a conversation of two turns (behaviour spec, 1.4)."""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from steerlm.attributes import HELPSTEER, AttributeSchema
from steerlm.datasets.config import HelpSteerSource, OnError, SourceSettings
from steerlm.datasets.outputs import Summary, make_folder, split_output
from steerlm.datasets.sources import localise, source_files, source_rows
from steerlm.errors import InputError, RecordError
from steerlm.prompt import ASSISTANT, SYSTEM_PROMPT, USER
from steerlm.records import Conversation, Line, Record, Turn


class RatedRow(Line):
    """A prompt, a response, and a column for each rating."""

    prompt: str
    response: str


def prepare_helpsteer(
    settings: HelpSteerSource, folder: Path, *, schema: AttributeSchema, on_error: OnError = "fail"
) -> Summary:
    """Write `train.jsonl` and `val.jsonl` into `folder`, rows in file order.

    Raises `RecordError` for a bad row (with `on_error` "skip" it is counted and written to `helpsteer.rejects.jsonl`).
    """
    names = [name for name in schema.names if name in HELPSTEER]
    if not names:
        raise InputError(f"no attribute of the schema ({', '.join(schema.names)}) is one of {', '.join(HELPSTEER)}")

    def convert(row: RatedRow, split: str) -> tuple[str, list[Conversation]]:
        return split, [conversation(opening(row.prompt), row.response, ratings(row, names, schema))]

    return convert_rows(settings, folder, RatedRow, convert, on_error)


def convert_rows(
    settings: SourceSettings,
    folder: Path,
    model: type[Record],
    convert: Callable[[Record, str], tuple[str, list[Conversation]]],
    on_error: OnError,
) -> Summary:
    """Stream the rows of a source through `convert(row, split of its file) -> (split, conversations)`.

    `convert` raises `ValueError` saying what is wrong with a row; nothing of that row is written.
    """
    kind = str(getattr(settings, "kind", "rows"))
    make_folder(folder)
    with TemporaryDirectory(prefix=f".{kind}-", dir=folder) as scratch:
        splits = source_files(localise(settings, Path(scratch)))
        with split_output(folder, kind, on_error) as out:
            for file_split, files in splits.items():
                for path in files:
                    for number, text, row in source_rows(path, model, out.reject):
                        out.summary.add("rows")
                        try:
                            split, talks = convert(row, file_split)
                        except ValueError as error:
                            out.reject(RecordError(path, number, reason(error)), text)
                            continue
                        for talk in talks:
                            out.write(split, talk)
    for name, lines in out.summary.written.items():
        if not lines:
            out.summary.notes.append(f"{name} is empty: the source has no rows of that split")
    return out.summary


def opening(prompt: str) -> list[Turn]:
    """The prompt as the user's turn."""
    return [Turn(value=prompt, speaker=USER, label=None)]


def conversation(before: Iterable[Turn], response: str, label: str) -> Conversation:
    """The turns so far and the labelled response. Raises `ValueError` for a text that would inject a label."""
    turns = [*before, Turn(value=response, speaker=ASSISTANT, label=label)]
    return Conversation(conversations=turns, system=SYSTEM_PROMPT, mask=USER, type="VALUE_TO_TEXT")


def ratings(row: Line, names: Sequence[str], schema: AttributeSchema) -> str:
    """The label string of the row's columns `names`, values written as they are.

    Raises `ValueError` for a column that is missing, not a number, or outside the schema's range.
    """
    columns = row.model_extra or {}
    parts = []
    for name in names:
        value = number(columns, name)
        if not schema.low <= value <= schema.high:
            raise ValueError(f"{name} is {value}, outside {schema.low}..{schema.high}")
        parts.append(f"{name}:{value}")
    return ",".join(parts)


def number(columns: dict[str, object], name: str) -> float:
    """A finite number from a column; `ValueError` says what is there instead."""
    if name not in columns:
        raise ValueError(f"column {name} is missing")
    value = columns[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} must be a number, not {value!r}")
    return value


def reason(error: ValueError) -> str:
    """The first line that says what is wrong, of pydantic's errors too."""
    details = getattr(error, "errors", None)
    return str(details()[0]["msg"]).removeprefix("Value error, ") if details else str(error)
