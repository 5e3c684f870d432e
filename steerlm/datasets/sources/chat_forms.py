# SPDX-License-Identifier: Apache-2.0
"""The forms of chat rows and their messages. Knows nothing about ratings.

- `messages`: `{"messages": [{"role": "user", "content": "..."}, ...]}`, as OpenAI and TRL write it.
- `prompt`: a `prompt` and a `completion` (or `response`), each a text or a list of messages, as TRL writes it.
- `sharegpt`: `{"conversations": [{"from": "human", "value": "..."}, ...]}`, also with the names `user`, `assistant`.

A key whose value is null counts as absent: tables with rows of several forms have it so.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from steerlm.prompt import ASSISTANT, USER

Form = Literal["messages", "prompt", "sharegpt"]
Role = Literal["system", "user", "assistant"]


class RowMessage(NamedTuple):
    """A message: who says it (`SYSTEM`, `USER` or `ASSISTANT`), its text, and its label string if it has one."""

    speaker: str
    text: str
    label: str | None = None


Messages = list[RowMessage]

FORMS: dict[Form, tuple[str, ...]] = {
    "messages": ("messages",),
    "prompt": ("prompt", "completion", "response"),
    "sharegpt": ("conversations",),
}
"""Form -> its keys; a row has the first form of which it has the first key."""
SYSTEM = "system"
ROLES: dict[str, str] = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT}
NAMES = {**ROLES, "developer": SYSTEM, "human": USER, "gpt": ASSISTANT}
"""Names of speakers in rows, in any case -> who they are. `speakers` of a source adds others."""


def read_form(
    row: Mapping[str, Any], form: Form | None = None, speakers: Mapping[str, Role] | None = None
) -> tuple[str | None, Messages]:
    """Return the system prompt (None if the row has none) and the messages of a row.

    Args:
        row: The row.
        form: Its form; None to detect it by the row's keys.
        speakers: The roles of further names, such as `{"customer": "user"}`.

    Raises:
        ValueError: If the row does not have the form, or a message is malformed.
    """
    form = form or next((name for name, keys in FORMS.items() if row.get(keys[0]) is not None), None)
    if form is None:
        raise ValueError(
            f"expected one of the keys {', '.join(keys[0] for keys in FORMS.values())}; the keys are {', '.join(row)}; "
            "columns: {prompt: NAME, response: NAME} (--column prompt=NAME --column response=NAME) says which are which"
        )
    if row.get(FORMS[form][0]) is None:
        raise ValueError(f"the key {FORMS[form][0]} is missing, which rows of the form {form} have")
    names = NAMES | {name.lower(): ROLES[role] for name, role in (speakers or {}).items()}
    if form == "messages":
        messages = _message_list(row["messages"], "messages", names, "role", "content")
    elif form == "sharegpt":
        messages = _message_list(row["conversations"], "conversations", names, "from", "value")
    else:
        messages = _prompt_and_completion(row, names)
    return _split_system(row, messages)


def _prompt_and_completion(row: Mapping[str, Any], names: Mapping[str, str]) -> Messages:
    answer = next((key for key in FORMS["prompt"][1:] if row.get(key) is not None), None)
    if answer is None:
        raise ValueError("the key completion or response is missing, which rows with a prompt have")
    messages = []
    for key, speaker in (("prompt", USER), (answer, ASSISTANT)):
        value = row[key]
        if isinstance(value, str):
            if not value.strip():
                raise ValueError(f"{key} is empty")
            messages.append(RowMessage(speaker, value))
        else:
            messages += _message_list(value, key, names, "role", "content")
    return messages


def _message_list(value: Any, key: str, names: Mapping[str, str], role_key: str, text_key: str) -> Messages:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{key} must be a list of messages with {role_key} and {text_key}, not {_shown(value)}")
    messages = []
    for index, message in enumerate(value):
        where = f"{key}.{index}"
        if not isinstance(message, dict):
            raise ValueError(f"{where} must be a message with {role_key} and {text_key}, not {_shown(message)}")
        name, label = message.get(role_key), message.get("label")
        if not isinstance(name, str) or name.lower() not in names:
            raise ValueError(
                f"{where}.{role_key} is {_shown(name)}, expected {', '.join(names)}; "
                "speakers: {NAME: user} (--speaker NAME=user) adds others"
            )
        if not isinstance(label, str | None):
            raise ValueError(f"{where}.label must be a label string, not {_shown(label)}")
        messages.append(RowMessage(names[name.lower()], _text(message.get(text_key), f"{where}.{text_key}"), label))
    return messages


def _text(content: Any, where: str) -> str:
    """Return a message's text; OpenAI's lists of text parts are joined."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and content:
        parts = [
            part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content
        ]
        texts = [part for part in parts if isinstance(part, str)]
        if len(texts) == len(content):
            return "".join(texts)
        raise ValueError(f"{where} has a part that is not text; only text can be learned")
    raise ValueError(f"{where} must be a text, not {_shown(content)}")


def _split_system(row: Mapping[str, Any], messages: Messages) -> tuple[str | None, Messages]:
    system = row.get("system")
    if system is not None and not isinstance(system, str):
        raise ValueError(f"system must be a text, not {_shown(system)}")
    if messages and messages[0].speaker == SYSTEM:
        system, messages = messages[0].text, messages[1:]
    if any(message.speaker == SYSTEM for message in messages):
        raise ValueError("a system message comes after another message; expected it first")
    return system, messages


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
