# SPDX-License-Identifier: Apache-2.0
"""An OpenAssistant message with its replies: its turn, its label string, its paths to the leaves.

Reads both forms of ratings: nested `{"quality": {"value": 0.5}}` and flat `{"name": ["quality"], "value": [0.5]}`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from steerlm.attributes import AttributeSchema, format_labels
from steerlm.prompt import ASSISTANT, LABEL_MARK, SYSTEM_PROMPT, USER
from steerlm.records import Conversation, Line, Turn, null_is

ROLES = {"prompter": USER, "assistant": ASSISTANT}


class Message(Line):
    """A message and its replies, in file order. `labels` is absent or null if nobody has rated it."""

    text: str
    role: str
    message_id: Annotated[str, null_is("?")] = "?"
    labels: dict[str, Any] | None = None
    replies: list["Message"] | None = None


def conversations(root: Message, names: Sequence[str], schema: AttributeSchema) -> Iterator[Conversation]:
    """Yield every path from the root to a leaf, depth first, replies in file order. Paths of one turn are skipped.

    Raises `ValueError` naming the message for an unknown role, a rating that is not a number in 0..1, or a text that
    would inject a label.
    """
    stack: list[tuple[Message, tuple[Turn, ...]]] = [(root, ())]
    while stack:
        message, history = stack.pop()
        path = (*history, turn(message, names, schema))
        if message.replies:
            stack.extend((reply, path) for reply in reversed(message.replies))
        elif history:
            yield Conversation(conversations=list(path), system=SYSTEM_PROMPT, mask=USER, type="VALUE_TO_TEXT")


def turn(message: Message, names: Sequence[str], schema: AttributeSchema) -> Turn:
    """Return a user's turn with a null label, or an assistant's with a label string (no label key if unrated)."""
    if message.role not in ROLES:
        raise ValueError(f"message {message.message_id}: role {message.role!r}, expected {' or '.join(ROLES)}")
    if LABEL_MARK in message.text:
        raise ValueError(f"message {message.message_id}: text contains {LABEL_MARK}, which would inject a label")
    speaker = ROLES[message.role]
    if speaker == USER:
        return Turn(value=message.text, speaker=speaker, label=None)
    if message.labels is None:
        return Turn(value=message.text, speaker=speaker)
    try:
        label = label_string(message.labels, names, schema)
    except ValueError as error:
        raise ValueError(f"message {message.message_id}: {error}") from None
    return Turn(value=message.text, speaker=speaker, label=label)


def label_string(labels: Mapping[str, Any], names: Sequence[str], schema: AttributeSchema) -> str:
    """Map ratings in 0..1 to the schema's range, rounded half to even: 0.125 -> 0, 0.375 -> 2, 0.625 -> 2.

    Uses the ratings in `names` that are present; returns "" if there are none.

    >>> label_string({"humor": {"value": 0.375}, "spam": {"value": 0}}, ("quality", "humor"), AttributeSchema())
    'humor:2'
    """
    ratings = {name: _rating(labels, name) for name in names}
    return format_labels(
        {
            name: round(schema.low + rating * (schema.high - schema.low))
            for name, rating in ratings.items()
            if rating is not None
        }
    )


def _rating(labels: Mapping[str, Any], name: str) -> float | None:
    if isinstance(labels.get("name"), list):
        rated, values = labels["name"], labels.get("value")
        if not isinstance(values, list) or len(values) != len(rated):
            raise ValueError("labels: as many values as names were expected")
        value = values[rated.index(name)] if name in rated else None
    else:
        entry = labels.get(name)
        value = entry.get("value") if isinstance(entry, Mapping) else entry
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"rating {name} must be a number in 0..1, not {value!r}")
    return value
