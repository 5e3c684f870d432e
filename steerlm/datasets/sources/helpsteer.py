# SPDX-License-Identifier: Apache-2.0
"""HelpSteer: each row, a prompt and a rated response, becomes a conversation (docs/upstream.md#helpsteer)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from steerlm.attributes import HELPSTEER, AttributeSchema, format_labels
from steerlm.datasets.outputs import OnError, Summary
from steerlm.datasets.sources.base import RawForm, SourceSettings, SourceType, Uri, has_keys
from steerlm.datasets.sources.rows import convert_rows, labeled_conversation, number_in, user_turn
from steerlm.errors import InputError
from steerlm.records import Conversation, Line


class HelpSteerSource(SourceSettings):
    """HelpSteer: a prompt, a response and its five ratings in each row."""

    kind: Literal["helpsteer"] = "helpsteer"
    source: Uri = "nvidia/HelpSteer"


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
        label = label_string(row, names, schema)
        return split, [labeled_conversation([user_turn(row.prompt)], row.response, label)]

    return convert_rows(settings, folder, RatedRow, convert, on_error)


def label_string(row: Line, names: Sequence[str], schema: AttributeSchema) -> str:
    """Return the label string of the row's columns `names`, with the values as they are; null is no rating.

    Raises `ValueError` for a column that is missing, not a number, or outside the schema's range.
    """
    columns = row.model_extra or {}
    labels = {}
    for name in names:
        if name in columns and columns[name] is None:
            continue
        value = number_in(columns, name)
        if not schema.low <= value <= schema.high:
            raise ValueError(f"{name} is {value}, outside {schema.low}..{schema.high}")
        labels[name] = value
    return format_labels(labels)


HELPSTEER_SOURCE = SourceType(
    HelpSteerSource,
    prepare_helpsteer,
    summary="HelpSteer: a prompt, a response and five ratings a row",
    help="HelpSteer: a prompt, a response and five ratings a row.\n\n"
    "Example: steerlm data helpsteer --output_directory data/helpsteer",
    forms=(
        RawForm(
            "HelpSteer",
            has_keys("prompt", "response", "helpfulness"),
            "helpsteer --source {file} --output_directory FOLDER",
        ),
    ),
)
