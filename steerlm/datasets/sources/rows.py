# SPDX-License-Identifier: Apache-2.0
"""Sources of independent rows: each row becomes conversations, or is rejected with a reason."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from steerlm.datasets.outputs import OnError, Output, Summary, make_folder, split_output
from steerlm.datasets.raw_files import source_rows
from steerlm.datasets.sources.base import SourceSettings
from steerlm.datasets.sources.raw_input import localize
from steerlm.errors import RecordError
from steerlm.prompt import ASSISTANT, SYSTEM_PROMPT, USER
from steerlm.records import Conversation, Record, Turn


def convert_rows(
    settings: SourceSettings,
    folder: Path,
    model: type[Record],
    convert: Callable[[Record, str], tuple[str, list[Conversation]]],
    on_error: OnError,
) -> Summary:
    """Stream the rows of a source into `train.jsonl` and `val.jsonl` of `folder`.

    Args:
        settings: The source.
        folder: The output folder.
        model: The record that a row must be.
        convert: Takes a row and the split of its file; returns the split and the conversations to write. Raises
            `ValueError` with the reason why a row is bad; nothing of that row is written.
        on_error: Whether a bad row raises `RecordError`, or is counted and written to the rejects.
    """
    make_folder(folder)
    with TemporaryDirectory(prefix=f".{settings.kind}-", dir=folder) as scratch:
        splits = localize(settings, Path(scratch)).files()
        with split_output(folder, settings.kind, on_error) as out:
            for file_split, files in splits.items():
                for path in files:
                    write_converted(out, path, model, convert, file_split)
            out.require_some(settings.source)
    for name, lines in out.summary.written.items():
        if not lines:
            out.summary.notes.append(f"{name} is empty: the source has no rows of that split")
    return out.summary


def write_converted(
    out: Output,
    path: Path,
    model: type[Record],
    convert: Callable[[Record, str], tuple[str, list[Conversation]]],
    file_split: str,
) -> None:
    """Convert the rows of one file, see `convert_rows`."""
    for number, text, row in source_rows(path, model, out.reject):
        out.summary.add("rows")
        try:
            split, conversations = convert(row, file_split)
        except ValueError as error:
            out.reject(RecordError(path, number, reason(error)), text)
            continue
        out.summary.kept += 1
        for conversation in conversations:
            out.write(split, conversation)


def user_turn(text: str) -> Turn:
    """Return a turn of the user."""
    return Turn(value=text, speaker=USER, label=None)


def labeled_conversation(
    history: Iterable[Turn], response: str, label: str, system: str = SYSTEM_PROMPT
) -> Conversation:
    """Return the history and the response, labeled unless `label` is "".

    Raises `ValueError` for a text that would inject a label.
    """
    answer = Turn(value=response, speaker=ASSISTANT, label=label) if label else Turn(value=response, speaker=ASSISTANT)
    turns = [*history, answer]
    return Conversation(conversations=turns, system=system, mask=USER, type="VALUE_TO_TEXT")


def number_in(columns: dict[str, object], name: str) -> float:
    """Return the finite number in a column. Raises `ValueError` with what the column contains instead."""
    if name not in columns:
        raise ValueError(f"column {name} is missing")
    value = columns[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} must be a number, not {value!r}")
    return value


def reason(error: ValueError) -> str:
    """Return the message of an error; the first one of pydantic's."""
    details = getattr(error, "errors", None)
    return str(details()[0]["msg"]).removeprefix("Value error, ") if details else str(error)
