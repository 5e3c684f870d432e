# SPDX-License-Identifier: Apache-2.0
"""HelpSteer2 and its preference pairs (docs/upstream.md#helpsteer2)."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import model_validator

from steerlm.attributes import AttributeSchema, format_labels
from steerlm.datasets.outputs import TRAIN, VAL, OnError, Summary
from steerlm.datasets.raw_files import BOTH, data_files
from steerlm.datasets.sources.base import CommandOption, RawForm, SourceSettings, SourceType, Uri, has_keys
from steerlm.datasets.sources.helpsteer import RatedRow, label_string
from steerlm.datasets.sources.rows import convert_rows, labeled_conversation, number_in, user_turn
from steerlm.errors import InputError
from steerlm.prompt import ASSISTANT, SYSTEM_PROMPT, TURN_MARK, USER
from steerlm.records import Conversation, Line, Turn, null_is

_EMBEDDED = re.compile(rf"\n{TURN_MARK}({USER}|{ASSISTANT})\n")
STRONGEST = 3


class HelpSteer2Source(SourceSettings):
    """HelpSteer2, or with `preference` its pairs, whose strength -3..3 is the first attribute's label."""

    kind: Literal["helpsteer2"] = "helpsteer2"
    source: Uri = "nvidia/HelpSteer2"
    only_helpfulness: Annotated[
        bool, CommandOption("Label helpfulness only.", ("--only_helpfulness", "--only-helpfulness", "-oh"))
    ] = False
    preference: Annotated[
        bool,
        CommandOption(
            "Preference pairs: two lines a row, strength -3..3 in the first slot.", ("--preference", "-pref")
        ),
    ] = False
    split_embedded_turns: Annotated[
        bool,
        CommandOption(
            "Make the turns inside multi-turn prompts turns of their own.",
            ("--split-embedded-turns", "--split_embedded_turns"),
        ),
    ] = False
    """Make the earlier turns inside the text of some prompts turns of their own (upstream leaves them in the text)."""

    @model_validator(mode="after")
    def _labels_remain(self) -> Self:
        if self.preference and self.only_helpfulness:
            raise ValueError(
                "preference and only_helpfulness exclude each other: preference rows have no helpfulness, so every "
                "label would be empty (as it is upstream) and there would be no regression sample"
            )
        if self.preference and self.repeat > 1:
            raise ValueError("repeat would separate preference pairs (a a b b); use the training stage's epochs")
        return self

    def patterns(self) -> tuple[str, ...]:
        """Return the patterns of the preference files, or of the training and validation files."""
        return ("preference/*",) if self.preference else super().patterns()

    def files(self) -> dict[str, list[Path]]:
        """Return the files by split; preference files are under `BOTH`, as each row names its split."""
        if not self.preference:
            return super().files()
        folder = Path(self.source)
        return {BOTH: data_files(folder / "preference" if (folder / "preference").is_dir() else folder, self.formats)}


class PreferenceRow(Line):
    """Two responses to a prompt; `preference_strength` -3..3 is negative where the first is better.

    `system` is ours: the system prompt of pairs that `steerlm data collect` wrote, if it is not the usual one.
    """

    prompt: str
    response_1: str
    response_2: str
    split: str
    system: Annotated[str, null_is(SYSTEM_PROMPT)] = SYSTEM_PROMPT


def prepare_helpsteer2(
    settings: HelpSteer2Source, folder: Path, *, schema: AttributeSchema, on_error: OnError = "fail"
) -> Summary:
    """Write `train.jsonl` and `val.jsonl` into `folder`, rows in file order; a preference row gives two lines.

    Raises `RecordError` for a bad row (with `on_error` "skip" it is counted and written to
    `helpsteer2.rejects.jsonl`; of a pair both lines are written or neither).
    """
    history = split_turns if settings.split_embedded_turns else _one_turn

    def rated(row: RatedRow, split: str) -> tuple[str, list[Conversation]]:
        columns = row.model_extra or {}
        names = ["helpfulness"] if settings.only_helpfulness else [n for n in schema.names if n in columns]
        if not names:
            raise ValueError(f"no column is an attribute of the schema ({', '.join(schema.names)})")
        return split, [labeled_conversation(history(row.prompt), row.response, label_string(row, names, schema))]

    def pair(row: PreferenceRow, split: str) -> tuple[str, list[Conversation]]:
        strength = number_in(row.model_extra or {}, "preference_strength")
        if not -STRONGEST <= strength <= STRONGEST:
            raise ValueError(f"preference_strength is {strength}, outside -{STRONGEST}..{STRONGEST}")
        label = format_labels({schema.names[0]: strength})
        turns = history(row.prompt)
        responses = (row.response_1, row.response_2)
        conversations = [labeled_conversation(turns, response, label, row.system) for response in responses]
        return TRAIN if row.split == "train" else VAL, conversations

    if settings.preference:
        return convert_rows(settings, folder, PreferenceRow, pair, on_error)
    if settings.only_helpfulness and "helpfulness" not in schema.names:
        raise InputError(f"helpfulness is not an attribute of the schema ({', '.join(schema.names)})")
    return convert_rows(settings, folder, RatedRow, rated, on_error)


def split_turns(prompt: str) -> list[Turn]:
    """Split the turns inside a prompt's text into turns of their own; the rendered text stays the same.

    Earlier answers have no label and `learned: false`: they are context only, unless an annotator labels them.
    """
    first, *rest = _EMBEDDED.split(prompt)
    turns = [Turn(value=first, speaker=USER, label=None)]
    for speaker, value in zip(rest[::2], rest[1::2], strict=True):
        if speaker == USER:
            turns.append(Turn(value=value, speaker=USER, label=None))
        else:
            turns.append(Turn(value=value, speaker=ASSISTANT, learned=False))
    return turns


def _one_turn(prompt: str) -> list[Turn]:
    return [user_turn(prompt)]


HELPSTEER2_SOURCE = SourceType(
    HelpSteer2Source,
    prepare_helpsteer2,
    summary="HelpSteer2, or its preference pairs",
    help="HelpSteer2, or its preference pairs.\n\n"
    "Example: steerlm data helpsteer2 --output_directory data/helpsteer2 --only_helpfulness",
    forms=(
        RawForm(
            "HelpSteer2's pairs",
            has_keys("prompt", "response_1", "response_2", "preference_strength"),
            "helpsteer2 --preference --source {file} --output_directory FOLDER",
        ),
    ),
)
