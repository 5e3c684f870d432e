# SPDX-License-Identifier: Apache-2.0
"""Messages and attributes become a prompt: the one place where the server decides which labels a model sees.

Checks attributes against the model's schema, fills in defaults and keeps the template's marks out of users' text. The
text itself is written by `steerlm.prompt`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steerlm.attributes import AttributeSchema, format_labels
from steerlm.errors import InputError, LabelError
from steerlm.prompt import ASSISTANT, SYSTEM_PROMPT, USER, marks_in, render_prompt
from steerlm.records import Turn
from steerlm.serving.dials import read_label
from steerlm.serving.errors import ApiError
from steerlm.serving.messages import ChatMessage, check_names


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """The text a model continues.

    Attributes:
        text: The text.
        attributes: The value of every trained attribute in it; empty for a model without attributes.
    """

    text: str
    attributes: dict[str, int]


def resolve_attributes(schema: AttributeSchema | None, requested: Mapping[str, Any]) -> dict[str, int]:
    """Return a value for every trained attribute: the requested one, or the model's default.

    Raises:
        ApiError: An attribute is unknown or untrained, or its value is out of range.
    """
    if schema is None:
        if requested:
            name = next(iter(requested))
            raise ApiError(f"this model has no attributes; {name!r} cannot be set", param="attributes")
        return {}
    try:
        return {name: int(value) for name, value in schema.complete(requested).items()}
    except LabelError as error:
        raise ApiError(str(error), param="attributes") from None


def without_marks(text: str, param: str, *, strip: bool) -> str:
    """Return text without the template's marks, which could inject a turn or a label.

    Args:
        text: A user's text.
        param: Its parameter, for the error.
        strip: Remove marks instead of refusing the text.

    Raises:
        ApiError: The text has a mark and `strip` is False.
    """
    while marks := marks_in(text):
        if not strip:
            raise ApiError(
                f"{param} contains the marker {marks[0]}, which is reserved by the model's template; remove it",
                param=param,
            )
        # Repeated: removing a mark can join the halves of another.
        for mark in marks:
            text = text.replace(mark, "")
    return text


def build_prompt(
    messages: Sequence[ChatMessage],
    requested: Mapping[str, Any],
    schema: AttributeSchema | None,
    *,
    strip_markers: bool = False,
) -> ChatPrompt:
    """Return the prompt for the answer to `messages`.

    Args:
        messages: A first message of role system replaces the default system prompt. An assistant message without a
            label of its own gets the requested attributes, because in training every answer has a label.
        requested: Attributes of the answer; the others get the model's defaults.
        schema: The model's attributes; None for a model without.
        strip_markers: Remove the template's marks from messages instead of refusing them.

    Raises:
        ApiError: A message or an attribute is invalid.
    """
    attributes = resolve_attributes(schema, requested)
    label = schema.format(attributes) if schema else ""
    system, turns = SYSTEM_PROMPT, []
    if not messages:
        raise ApiError("messages is empty; at least one user message is needed", param="messages")
    check_names(messages)
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        text = without_marks(message.text(where), f"{where}.content", strip=strip_markers)
        if message.label is not None and message.role != "assistant":
            raise ApiError(f"{where}.label: only an assistant message has a label", param=f"{where}.label")
        if message.role in ("system", "developer"):
            if index:
                raise ApiError(f"{where}: a system message must be the first", param=where)
            system = text
        elif message.role == "user":
            turns.append(Turn(value=text, speaker=USER))
        else:
            own = label if message.label is None else _format_label(message.label, schema, f"{where}.label")
            turns.append(Turn(value=text, speaker=ASSISTANT, label=own or None))
    if not turns:
        raise ApiError("messages has no user message", param="messages")
    try:
        return ChatPrompt(render_prompt(turns, label, system), attributes)
    except InputError as error:
        raise ApiError(str(error), param="messages") from None


def _format_label(label: Any, schema: AttributeSchema | None, param: str) -> str:
    if schema is None:
        raise ApiError("this model has no attributes; a message cannot have a label", param=param)
    values = read_label(label, param)
    try:
        schema.check(values)
    except LabelError as error:
        raise ApiError(f"{param}: {error}", param=param) from None
    # A label string keeps its order, as in training and in the chat template; a mapping has none.
    return format_labels(values) if isinstance(label, str) else schema.format(values)
