# SPDX-License-Identifier: Apache-2.0
"""Chat messages as OpenAI's clients send them: which parts the models here can read, and why others are refused.

What is ignored cannot change the answer; everything else is used or refused with its place.
"""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, WithJsonSchema

from steerlm.errors import nearest, shown
from steerlm.serving.errors import ApiError
from steerlm.serving.no_effect import Harmless, has_no_effect

ROLES = ("system", "developer", "user", "assistant")

_TEXT_PART = {
    "type": "object",
    "required": ["type", "text"],
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
}
Content = Annotated[Any, WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": _TEXT_PART}]})]
_LABELS = {"type": "object", "additionalProperties": {"type": "integer"}}
Label = Annotated[Any, WithJsonSchema({"anyOf": [{"type": "string"}, _LABELS, {"type": "null"}]})]

WITHOUT_EFFECT: Harmless = {
    "tool_calls": ([],),
    "function_call": (),
    "refusal": ("",),
    "audio": (),
    "annotations": ([],),
    "reasoning": ("",),
    "reasoning_content": ("",),
}
"""Fields of a message that are refused, except with these values."""


PART_FIELDS = ("type", "text", "cache_control")
"""Fields of a text part. `cache_control` is about a cache of prompts, which changes no answer."""


class ChatMessage(BaseModel):
    """One chat message.

    `content`: a text, or a list of text parts. `label`: the attributes of an assistant's message, as
    `quality:4,humor:0` or as a mapping. `name`: of the participant; the template has one User and one Assistant.
    """

    model_config = ConfigDict(extra="allow")

    role: str
    content: Content = None
    label: Label = None
    name: str | None = None

    def text(self, where: str) -> str:
        """Return the content without its division into parts.

        Args:
            where: The message, for errors.

        Raises:
            ApiError: The message has something that the model cannot read.
        """
        if self.role not in ROLES:
            known = "; this model has no tools" if self.role in ("tool", "function") else ""
            raise ApiError(
                f"{where}.role must be system, user or assistant, not {self.role!r}{known}", param=f"{where}.role"
            )
        for name, value in (self.model_extra or {}).items():
            _check_field(name, value, where)
        content, param = self.content, f"{where}.content"
        if isinstance(content, str):
            return content
        if isinstance(content, list):
            return "".join(_part(part, f"{param}[{index}]") for index, part in enumerate(content))
        given = "is missing" if "content" not in self.model_fields_set else f"is {shown(content)}"
        raise ApiError(f"{param} {given}; a text or a list of text parts is required", param=param)


def check_names(messages: Sequence[ChatMessage]) -> None:
    """Raise `ApiError` if names tell several participants of one role apart: the model cannot."""
    first: dict[str, str] = {}
    for index, message in enumerate(messages):
        if message.name and first.setdefault(message.role, message.name) != message.name:
            where = f"messages[{index}].name"
            raise ApiError(
                f"{where} is {message.name!r}, another {message.role} is {first[message.role]!r}; the model knows one "
                f"{message.role} only: leave names out, or write them into the contents",
                param=where,
            )


def _check_field(name: str, value: Any, where: str) -> None:
    if has_no_effect(name, value, WITHOUT_EFFECT):
        return
    param = f"{where}.{name}"
    if name in WITHOUT_EFFECT:
        raise ApiError(f"{param} is not supported: the model reads text only; remove it", param=param)
    hint = nearest(name, ("role", "content", "label", "name"))
    form = 'attributes are the label of an assistant\'s message: "humor:4"'
    raise ApiError(f"{param}: unknown field{hint}; {form}", param=param)


def _part(part: Any, where: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    text = part.get("text") if isinstance(part, dict) else None
    if kind == "text" and isinstance(text, str):
        for name in part:
            if name not in PART_FIELDS and part[name] is not None:
                raise ApiError(f"{where}.{name}: unknown field of a text part; remove it", param=f"{where}.{name}")
        return text
    form = '{"type": "text", "text": "..."}'
    if kind is None or kind == "text":
        raise ApiError(f"{where} must have the form {form}, not {shown(part)}", param=where)
    raise ApiError(f"{where} is of type {shown(kind)}; the model reads text only: {form}", param=where)
