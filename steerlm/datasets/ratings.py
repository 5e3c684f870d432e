# SPDX-License-Identifier: Apache-2.0
"""What a person said of answers: the records of ratings and preferences, one file each.

A file has conversations that end with the answer, in the format of every other conversations file: one line for a
rating, whose last turn has the person's values as its label, and two for a preference between two answers. The key
`rating` says who, when and about which model.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import Field, model_validator

from steerlm.attributes import AttributeSchema, format_labels, parse_labels
from steerlm.datasets.sources.helpsteer2 import STRONGEST
from steerlm.errors import LabelError, RecordError
from steerlm.prompt import ASSISTANT, USER, marks_in
from steerlm.records import Conversation, Line, Turn, parse_line

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
LINES = {"rating": 1, "preference": 2}
"""Lines of a file by the kind of its record."""


class RatingNote(Line):
    """Where a rating comes from.

    Attributes:
        kind: Of the file.
        id: Unique; the file is named after it.
        by: The name that the person typed.
        key: Name of the API key that the rating came with, which the server has checked; None if it asks for none.
        at: When, in UTC, as `2026-11-27T12:00:00.000000Z`: texts sort as the times do.
        model: Id of the model that answered.
        asked: The attributes that the answer was asked with.
        strength: Of a preference, -3..3 as in HelpSteer2: negative if the file's first answer is better.
    """

    kind: Literal["rating", "preference"]
    id: str
    by: Annotated[str, Field(min_length=1)] | None = None
    key: Annotated[str, Field(min_length=1)] | None = None
    at: Annotated[str, Field(pattern=f"^{TIME.pattern}$")]
    model: str
    asked: dict[str, int]
    strength: Annotated[int, Field(ge=-STRONGEST, le=STRONGEST)] | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.strength is None) != (self.kind == "rating"):
            raise ValueError("a preference has a strength, a rating has none")
        if self.by is None and self.key is None:
            raise ValueError("who rated is missing: by, the person's name, or key, the name of the API key")
        UUID(hex=self.id)
        return self

    @property
    def person(self) -> tuple[str, str]:
        """Who it is from: several people may share a key, and names are typed."""
        return self.key or "", self.by or ""


class RatedConversation(Conversation):
    """A conversation whose last turn is an answer that a person rated or compared."""

    rating: RatingNote

    @model_validator(mode="after")
    def _ends_with_the_answer(self) -> Self:
        turns = self.conversations
        if len(turns) < 2 or turns[-1].speaker != ASSISTANT or turns[-2].speaker != USER or self.mask != USER:
            raise ValueError("a question of the user and its answer were expected at the end")
        if (self.rating.kind == "rating") != bool(turns[-1].label):
            raise ValueError("the answer of a rating has a label, those of a preference have none")
        if marks := [mark for text in (self.system, *(t.value for t in turns)) for mark in marks_in(text)]:
            raise ValueError(f"a text contains the marker {marks[0]}, which is reserved by the model's template")
        return self

    @property
    def question(self) -> tuple[str, ...]:
        """System prompt, and the speakers and texts of all turns before the answer."""
        return (self.system, *(part for turn in self.conversations[:-1] for part in (turn.speaker, turn.value)))

    @property
    def answer(self) -> str:
        """The text of the answer."""
        return self.conversations[-1].value

    @property
    def labels(self) -> dict[str, float]:
        """What the person gave for the answer; empty in a preference."""
        label = self.conversations[-1].label
        return parse_labels(label) if label else {}


def rated_conversation(
    system: str, history: Sequence[Turn], answer: str, labels: Mapping[str, int], note: RatingNote
) -> RatedConversation:
    """Return the record of one answer.

    Args:
        system: The system prompt the model was asked with.
        history: All turns before the answer. Earlier answers are context, not examples: they are not learned.
        answer: The text of the answer.
        labels: The person's values in schema order; empty in a preference.
        note: Where they come from.
    """
    turns = [
        Turn(value=turn.value, speaker=USER, label=None)
        if turn.speaker == USER
        else Turn(value=turn.value, speaker=ASSISTANT, learned=False)
        for turn in history
    ]
    label = format_labels(labels)
    turns.append(Turn(value=answer, speaker=ASSISTANT, label=label) if label else Turn(value=answer, speaker=ASSISTANT))
    return RatedConversation(conversations=turns, system=system, mask=USER, type="VALUE_TO_TEXT", rating=note)


def read_rating(text: str, name: str, schema: AttributeSchema) -> list[RatedConversation]:
    """Parse the content of one file: one conversation, or the two of a preference.

    Args:
        text: The content.
        name: Path or URI of the file, for errors.
        schema: The attributes that may be rated.

    Raises:
        RecordError: It is not such a record, or a label is not one of the schema; names file and line.
    """
    lines = text.removesuffix("\n").split("\n") if text else []  # other line ends may be inside a text
    records = [parse_line(line, RatedConversation, name, number) for number, line in enumerate(lines, 1)]
    if not records:
        raise RecordError(name, 1, "the file is empty; delete it")
    first = records[0]
    kind = first.rating.kind
    if len(records) != LINES[kind]:
        raise RecordError(name, len(records), f"a {kind} has {LINES[kind]} lines, not {len(records)}")
    for number, record in enumerate(records, 1):
        note = record.rating.model_copy(update={"asked": first.rating.asked})
        if (note, record.question) != (first.rating, first.question):
            raise RecordError(name, number, "the two answers of a preference have one question, person and time")
        try:
            schema.check(record.labels)
        except LabelError as error:
            raise RecordError(name, number, f"{error}; --attributes FILE gives attributes of your own") from None
    return records
