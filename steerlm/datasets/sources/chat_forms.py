# SPDX-License-Identifier: Apache-2.0
"""The forms of chat rows and their messages. Knows nothing about ratings.

- `messages`: `{"messages": [{"role": "user", "content": "..."}, ...]}`, as OpenAI and TRL write it.
- `prompt`: a `prompt` and a `completion` (or `response`), each a text or a list of messages, as TRL writes it.
- `sharegpt`: `{"conversations": [{"from": "human", "value": "..."}, ...]}`.
"""

from collections.abc import Mapping
from typing import Any, Literal

from steerlm.prompt import ASSISTANT, USER

Form = Literal["messages", "prompt", "sharegpt"]
Messages = list[tuple[str, str]]
"""(speaker, text) of every turn."""

FORMS: dict[Form, tuple[str, ...]] = {
    "messages": ("messages",),
    "prompt": ("prompt", "completion", "response"),
    "sharegpt": ("conversations",),
}
"""Form -> its keys; a row has the first form of which it has the first key."""
SYSTEM = "system"
ROLES = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT}
SHAREGPT_ROLES = {"system": SYSTEM, "human": USER, "gpt": ASSISTANT, "user": USER, "assistant": ASSISTANT}


def read_form(row: Mapping[str, Any], form: Form | None = None) -> tuple[str | None, Messages]:
    """Return the system prompt (None if the row has none) and the messages of a row.

    Args:
        row: The row.
        form: Its form; None to detect it by the row's keys.

    Raises:
        ValueError: If the row does not have the form, or a message is malformed.
    """
    form = form or next((name for name, keys in FORMS.items() if keys[0] in row), None)
    if form is None:
        raise ValueError(f"expected one of the keys {', '.join(keys[0] for keys in FORMS.values())}")
    missing = [key for key in FORMS[form][:1] if key not in row]
    if missing:
        raise ValueError(f"the key {missing[0]} is missing, which rows of the form {form} have")
    if form == "messages":
        messages = _message_list(row["messages"], "messages", ROLES, "role", "content")
    elif form == "sharegpt":
        messages = _message_list(row["conversations"], "conversations", SHAREGPT_ROLES, "from", "value")
    else:
        messages = _prompt_and_completion(row)
    return _split_system(row, messages)


def _prompt_and_completion(row: Mapping[str, Any]) -> Messages:
    answer = "completion" if "completion" in row else "response"
    if answer not in row:
        raise ValueError("the key completion or response is missing, which rows with a prompt have")
    messages = []
    for key, speaker in (("prompt", USER), (answer, ASSISTANT)):
        value = row[key]
        messages += (
            [(speaker, value)] if isinstance(value, str) else _message_list(value, key, ROLES, "role", "content")
        )
    return messages


def _message_list(value: Any, key: str, roles: Mapping[str, str], role_key: str, text_key: str) -> Messages:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{key} must be a list of messages with {role_key} and {text_key}, not {_shown(value)}")
    messages = []
    for index, message in enumerate(value):
        where = f"{key}.{index}"
        if not isinstance(message, dict):
            raise ValueError(f"{where} must be a message with {role_key} and {text_key}, not {_shown(message)}")
        role = message.get(role_key)
        if not isinstance(role, str) or role not in roles:
            raise ValueError(f"{where}.{role_key} is {_shown(role)}, expected {', '.join(roles)}")
        messages.append((roles[role], _text(message.get(text_key), f"{where}.{text_key}")))
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
    if messages and messages[0][0] == SYSTEM:
        system, messages = messages[0][1], messages[1:]
    if any(speaker == SYSTEM for speaker, _ in messages):
        raise ValueError("a system message comes after another message; expected it first")
    return system, messages


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
