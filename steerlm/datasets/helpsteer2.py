# SPDX-License-Identifier: Apache-2.0
"""HelpSteer2 and its preference pairs (behaviour spec, 1.5)."""

import re
from pathlib import Path

from steerlm.attributes import AttributeSchema
from steerlm.datasets.config import HelpSteer2Source, OnError
from steerlm.datasets.helpsteer import RatedRow, conversation, convert_rows, number, opening, ratings
from steerlm.datasets.outputs import TRAIN, VAL, Summary
from steerlm.errors import InputError
from steerlm.prompt import ASSISTANT, TURN_MARK, USER
from steerlm.records import Conversation, Line, Turn

_EMBEDDED = re.compile(rf"\n{TURN_MARK}({USER}|{ASSISTANT})\n")
STRONGEST = 3


class PreferenceRow(Line):
    """Two responses to a prompt; `preference_strength` -3..3 is negative where the first is better."""

    prompt: str
    response_1: str
    response_2: str
    split: str


def prepare_helpsteer2(
    settings: HelpSteer2Source, folder: Path, *, schema: AttributeSchema, on_error: OnError = "fail"
) -> Summary:
    """Write `train.jsonl` and `val.jsonl` into `folder`, rows in file order; a preference row gives two lines.

    Raises `RecordError` for a bad row (with `on_error` "skip" it is counted and written to
    `helpsteer2.rejects.jsonl`; of a pair both lines are written or neither).
    """
    before = split_turns if settings.split_embedded_turns else opening

    def rated(row: RatedRow, split: str) -> tuple[str, list[Conversation]]:
        columns = row.model_extra or {}
        names = ["helpfulness"] if settings.only_helpfulness else [n for n in schema.names if n in columns]
        if not names:
            raise ValueError(f"no column is an attribute of the schema ({', '.join(schema.names)})")
        return split, [conversation(before(row.prompt), row.response, ratings(row, names, schema))]

    def pair(row: PreferenceRow, split: str) -> tuple[str, list[Conversation]]:
        strength = number(row.model_extra or {}, "preference_strength")
        if not -STRONGEST <= strength <= STRONGEST:
            raise ValueError(f"preference_strength is {strength}, outside -{STRONGEST}..{STRONGEST}")
        label = f"{schema.names[0]}:{strength}"
        turns = before(row.prompt)
        talks = [conversation(turns, response, label) for response in (row.response_1, row.response_2)]
        return TRAIN if row.split == "train" else VAL, talks

    if settings.preference:
        return convert_rows(settings, folder, PreferenceRow, pair, on_error)
    if settings.only_helpfulness and "helpfulness" not in schema.names:
        raise InputError(f"helpfulness is not an attribute of the schema ({', '.join(schema.names)})")
    return convert_rows(settings, folder, RatedRow, rated, on_error)


def split_turns(prompt: str) -> list[Turn]:
    """The turns that a prompt carries inside its text, as turns of their own; rendered, the text stays the same.

    Earlier answers have no label and say `learned: false`: they are context, unless an annotator labels them.
    """
    first, *rest = _EMBEDDED.split(prompt)
    turns = [Turn(value=first, speaker=USER, label=None)]
    for speaker, value in zip(rest[::2], rest[1::2], strict=True):
        if speaker == USER:
            turns.append(Turn(value=value, speaker=USER, label=None))
        else:
            turns.append(Turn(value=value, speaker=ASSISTANT, learned=False))
    return turns
