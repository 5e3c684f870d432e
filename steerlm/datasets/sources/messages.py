# SPDX-License-Identifier: Apache-2.0
"""Chat rows as OpenAI, TRL and ShareGPT write them, rated in columns or in a mapping; see docs/own-data.md.

A row's ratings label its last answer; earlier answers are unrated, unless they have a `label` of their own. The
conversations follow docs/upstream.md#conversation-records.
"""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import model_validator

from steerlm.attributes import AttributeSchema
from steerlm.datasets.outputs import TRAIN, OnError, Summary, make_folder, single_output
from steerlm.datasets.raw_files import ALL_FORMATS
from steerlm.datasets.sources.base import CommandOption, RawForm, SourceSettings, SourceType, has_keys
from steerlm.datasets.sources.chat_forms import FORMS, Form, Role, RowMessage, read_form
from steerlm.datasets.sources.chat_ratings import UnreadRatings, read_ratings
from steerlm.datasets.sources.raw_input import localize
from steerlm.datasets.sources.rows import convert_rows, user_turn, write_converted
from steerlm.errors import InputError, nearest
from steerlm.prompt import ASSISTANT, SYSTEM_PROMPT, USER
from steerlm.records import SPEAKERS, Conversation, Line, Turn

CONVERT = "convert {file} --output conversations.jsonl"


def parse_pairs(pairs: list[str]) -> dict[str, str] | None:
    """Parse repeated options NAME=COLUMN. Returns None if there are none.

    >>> parse_pairs(["helpfulness=score"])
    {'helpfulness': 'score'}
    """
    for pair in pairs:
        if not all(pair.partition("=")):
            raise InputError(f"{pair!r}: expected NAME=COLUMN, such as helpfulness=score")
    return dict(pair.split("=", 1) for pair in pairs) or None


class MessagesSource(SourceSettings):
    """Chat rows: a folder of files named `train*` and `val*`, one file, or a folder written by `save_to_disk`."""

    formats: ClassVar[tuple[str, ...]] = ALL_FORMATS

    kind: Literal["messages"] = "messages"
    format: Annotated[
        Form | None,
        CommandOption("The rows' form: messages, prompt or sharegpt. Default: each row's by its keys.", ("--format",)),
    ] = None
    columns: Annotated[
        dict[str, str] | None,
        CommandOption(
            "A column with another name, such as prompt=question (repeatable).", ("--column",), list[str], parse_pairs
        ),
    ] = None
    """Other names of the keys `messages`, `prompt`, `completion`, `conversations`, `system`, `ratings`."""
    speakers: Annotated[
        dict[str, Role] | None,
        CommandOption(
            "Who a name in the rows is, such as customer=user (repeatable): system, user or assistant.",
            ("--speaker",),
            list[str],
            parse_pairs,
        ),
    ] = None
    """Name of a speaker in the rows -> `system`, `user` or `assistant`, besides the usual names."""
    attributes: Annotated[
        dict[str, str] | None,
        CommandOption(
            "The column of an attribute's rating, such as helpfulness=score (repeatable).",
            ("--rating",),
            list[str],
            parse_pairs,
        ),
    ] = None
    """Attribute -> the column of its rating; null: the mapping `ratings`, or columns named like attributes."""
    scale: Annotated[
        dict[Literal["from"], tuple[float, float]] | None,
        CommandOption(
            "Lowest and highest rating, mapped onto the attributes' range.",
            ("--scale-from", "--scale_from"),
            tuple[float, float],
            lambda limits: limits and {"from": limits},
        ),
    ] = None
    """`{from: [lowest, highest]}`: the range of the ratings; null: that of the attributes."""

    @model_validator(mode="after")
    def _valid(self) -> Self:
        for key in self.columns or ():
            if key not in COLUMNS:
                if self.columns and self.columns[key] in COLUMNS:
                    remedy = f"; write {self.columns[key]}={key}"
                else:
                    hint, known = nearest(key, COLUMNS), "known: " + ", ".join(COLUMNS)
                    remedy = hint if known in hint else f"{hint} {known}"
                raise ValueError(f"columns: unknown key {key!r}{remedy}")
        if self.scale is not None and not self.limits:
            raise ValueError("scale needs the key from, such as {from: [1, 10]}")
        if self.limits and not self.limits[0] < self.limits[1]:
            raise ValueError(f"scale.from: the lowest rating comes first, not {list(self.limits)}")
        return self

    @property
    def limits(self) -> tuple[float, float] | None:
        """The lowest and the highest rating, if they are not the attributes' range."""
        return (self.scale or {}).get("from")


COLUMNS = (*(key for keys in FORMS.values() for key in keys), "system", "ratings")


def prepare_messages(
    settings: MessagesSource, folder: Path, *, schema: AttributeSchema, on_error: OnError = "fail"
) -> Summary:
    """Write `train.jsonl` and `val.jsonl` into `folder`, rows in file order.

    Raises `RecordError` for a bad row (with `on_error` "skip" it is counted and written to `messages.rejects.jsonl`).
    """
    _check_attributes(settings, schema)
    unread = _unread_ratings(settings, schema)

    def convert(row: Line, split: str) -> tuple[str, list[Conversation]]:
        return split, [read_conversation(row.model_extra or {}, settings, schema, unread)]

    summary = convert_rows(settings, folder, Line, convert, on_error)
    summary.notes.extend(filter(None, [unread.note()]))
    return summary


def convert_messages(
    settings: MessagesSource, output_file: Path, *, schema: AttributeSchema, on_error: OnError = "fail"
) -> Summary:
    """Write the conversations of a source with one split into one file.

    Raises:
        InputError: If the source has training and validation data, or no row, or the output is the input.
        RecordError: For a bad row; with `on_error` "skip" it is counted and written beside the output.
    """
    _check_attributes(settings, schema)
    name, unread = output_file.name, _unread_ratings(settings, schema)

    def convert(row: Line, split: str) -> tuple[str, list[Conversation]]:
        return name, [read_conversation(row.model_extra or {}, settings, schema, unread)]

    make_folder(output_file.parent)
    with TemporaryDirectory(prefix=".convert-", dir=output_file.parent) as scratch:
        splits = localize(settings, Path(scratch)).files()
        if len(splits) > 1 and all(splits.values()):
            raise InputError(
                f"{settings.source}: has training and validation data; convert both into a folder with "
                f"steerlm data messages --source {settings.source} --output_directory FOLDER"
            )
        files = [file for part in splits.values() for file in part]
        if output_file.exists() and any(output_file.samefile(file) for file in files):
            raise InputError(f"{output_file}: is also the input, which would be lost; give the output another name")
        with single_output(output_file, on_error) as out:
            for path in files:
                write_converted(out, path, Line, convert, TRAIN)
            out.require_some(settings.source)
    out.summary.notes.extend(filter(None, [unread.note()]))
    return out.summary


def read_conversation(
    row: Mapping[str, Any], settings: MessagesSource, schema: AttributeSchema, unread: UnreadRatings | None = None
) -> Conversation:
    """Convert one row, and count it in `unread`. Raises `ValueError` with the reason if the row is bad."""
    original, renamed = row, settings.columns or {}
    row = {**row, **{key: row[column] for key, column in renamed.items() if column in row}}
    if row.get("type") == "TEXT_TO_VALUE":
        raise ValueError("type TEXT_TO_VALUE (the label after the answer) is not supported; VALUE_TO_TEXT is")
    try:
        system, messages = read_form(row, settings.format, settings.speakers)
    except ValueError:
        for column in renamed.values():
            if column not in row:
                raise ValueError(f"column {column} is missing{nearest(column, original)}") from None
        raise
    labels = read_ratings(row, settings.attributes, settings.limits, schema)
    if unread is not None:
        unread.add(original, labels)
    answers = [index for index, message in enumerate(messages) if message.speaker == ASSISTANT]
    if not answers:
        raise ValueError("no message is from the assistant; expected at least one answer")
    if labels and messages[answers[-1]].label:
        raise ValueError("the last answer has a label of its own and the row has ratings; expected one of them")
    turns = [_turn(message) for message in messages]
    if labels:
        turns[answers[-1]] = Turn(value=messages[answers[-1]].text, speaker=ASSISTANT, label=schema.format(labels))
    system = SYSTEM_PROMPT if system is None else system
    return Conversation(conversations=turns, system=system, mask=USER, type="VALUE_TO_TEXT")


def _turn(message: RowMessage) -> Turn:
    if message.label:
        return Turn(value=message.text, speaker=message.speaker, label=message.label)
    return user_turn(message.text) if message.speaker == USER else Turn(value=message.text, speaker=message.speaker)


def _unread_ratings(settings: MessagesSource, schema: AttributeSchema) -> UnreadRatings:
    columns = {column.split(".")[0] for column in (settings.attributes or {}).values()}
    whole = (settings.attributes or {}).values()
    return UnreadRatings(schema, {*COLUMNS, *(settings.columns or {}).values(), *columns, *whole})


def _check_attributes(settings: MessagesSource, schema: AttributeSchema) -> None:
    for name in settings.attributes or ():
        if name not in schema.names:
            raise InputError(f"attributes: {name!r} is not an attribute of the schema{nearest(name, schema.names)}")


def _is_sharegpt(row: Mapping[str, Any]) -> bool:
    turns = row.get("conversations")
    speakers = [turn.get("from") for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else []
    return any(isinstance(speaker, str) and speaker not in SPEAKERS for speaker in speakers)


MESSAGES = SourceType(
    MessagesSource,
    prepare_messages,
    summary="chat messages of OpenAI, TRL and ShareGPT; CSV and tables with a prompt and a response",
    help="Chat rows of any form. Messages, prompt and completion, ShareGPT; JSON, CSV, Parquet, a saved dataset.\n\n"
    "Example: steerlm data messages --output_directory data/own --source chats --scale-from 1 10",
    forms=(
        RawForm("chat messages", has_keys("messages"), CONVERT),
        RawForm("prompts with completions", has_keys("prompt", "completion"), CONVERT),
        RawForm("prompts with responses", has_keys("prompt", "response"), CONVERT),
        RawForm("ShareGPT conversations", _is_sharegpt, CONVERT),
    ),
)
