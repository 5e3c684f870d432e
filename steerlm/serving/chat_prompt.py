# SPDX-License-Identifier: Apache-2.0
"""Messages and dials become a prompt: the one place where a server decides which labels a model sees.

Checks dials against the model's schema, fills the defaults, keeps the template's marks out of users' text, and leaves
the text itself to `steerlm.prompt`. Source: decisions, "Annotation and serving"; serving facts 6.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steerlm.attributes import AttributeSchema, parse_labels
from steerlm.errors import InputError, LabelError
from steerlm.prompt import ASSISTANT, MARKS, SYSTEM_PROMPT, USER, marks_in, render_prompt
from steerlm.records import Turn
from steerlm.serving.errors import ApiError


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message; `label` only on an assistant's, a label string or a mapping of dials."""

    role: str
    content: str
    label: str | Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """The text a model continues, and the dials it was written with (empty for a model without attributes)."""

    text: str
    attributes: dict[str, int]


def dials(schema: AttributeSchema | None, asked: Mapping[str, Any], param: str = "attributes") -> dict[str, int]:
    """A value for every trained attribute: what was asked, checked, and the model's defaults for the others."""
    if schema is None:
        if asked:
            raise ApiError(f"this model has no attributes; {next(iter(asked))!r} cannot be set", param=param)
        return {}
    try:
        return {name: int(value) for name, value in schema.complete(asked).items()}
    except LabelError as error:
        raise ApiError(str(error), param=param) from None


def clean(text: str, param: str, *, strip: bool) -> str:
    """Text without the template's marks, which could inject a turn or a label: refused, or removed with `strip`."""
    while marks := marks_in(text):
        if not strip:
            raise ApiError(
                f"{param} contains the marker {marks[0]}, which has a meaning in the model's template; remove it",
                param=param,
            )
        # Again and again: removing a mark can join the halves of another.
        for mark in marks:
            text = text.replace(mark, "")
    return text


def build_prompt(
    messages: Sequence[Message],
    asked: Mapping[str, Any],
    schema: AttributeSchema | None,
    *,
    strip_markers: bool = False,
) -> Prompt:
    """The prompt for the answer to `messages`.

    A first message of role system replaces the default system prompt. An assistant message without a label of its own
    carries the requested dials, as in training every answer carries a label.
    Raises `ApiError` naming the message or dial at fault.
    """
    vector = dials(schema, asked)
    label = schema.format(vector) if schema else ""
    system, turns = SYSTEM_PROMPT, []
    if not messages:
        raise ApiError("messages is empty; at least one user message is needed", param="messages")
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        text = clean(message.content, f"{where}.content", strip=strip_markers)
        if message.label is not None and message.role != "assistant":
            raise ApiError(f"{where}.label: only an assistant message carries a label", param=f"{where}.label")
        if message.role in ("system", "developer"):
            if index:
                raise ApiError(f"{where}: a system message must be the first", param=where)
            system = text
        elif message.role == "user":
            turns.append(Turn(value=text, speaker=USER))
        elif message.role == "assistant":
            own = label if message.label is None else _label(message.label, schema, f"{where}.label")
            turns.append(Turn(value=text, speaker=ASSISTANT, label=own or None))
        else:
            raise ApiError(
                f"{where}.role must be system, user or assistant, not {message.role!r}", param=f"{where}.role"
            )
    if not turns:
        raise ApiError("messages has no user message", param="messages")
    try:
        return Prompt(render_prompt(turns, label, system), vector)
    except InputError as error:
        raise ApiError(str(error), param="messages") from None


def _label(label: str | Mapping[str, float], schema: AttributeSchema | None, param: str) -> str:
    if schema is None:
        raise ApiError("this model has no attributes; a message cannot carry a label", param=param)
    if not label:
        return ""
    try:
        values = parse_labels(label) if isinstance(label, str) else dict(label)
        schema.check(values)
    except LabelError as error:
        raise ApiError(f"{param}: {error}", param=param) from None
    # A label string keeps its order, as in training and in the chat template; a mapping has none.
    return ",".join(f"{n}:{int(v)}" for n, v in values.items()) if isinstance(label, str) else schema.format(values)


def stops(user: Sequence[str] = ()) -> tuple[str, ...]:
    """Where an answer ends: the mark of the next turn, with the newline the template writes before it."""
    return (f"\n{MARKS[1]}", MARKS[1], *user)
