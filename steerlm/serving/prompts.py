# SPDX-License-Identifier: Apache-2.0
"""A field that is a text, texts, token ids, or lists of token ids: one reader and one message for all forms."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from steerlm.errors import shown
from steerlm.serving.errors import ApiError

Prompt = str | list[int]
"""A text or token ids."""

_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}}
_TEXTS = {"type": "array", "items": {"type": "string"}}
PROMPTS_SCHEMA: dict[str, Any] = {"anyOf": [{"type": "string"}, _TEXTS, _IDS, {"type": "array", "items": _IDS}]}

SHORT = 4096
"""Characters, or token ids, that are tokenized or checked in less time than another thread takes to begin."""

Result = TypeVar("Result")


async def beside_the_loop(work: Callable[[], Result], prompts: Iterable[Sequence[Any]]) -> Result:
    """Return the result of `work` on prompts; in another thread, unless they are short."""
    return work() if sum(map(len, prompts)) <= SHORT else await asyncio.to_thread(work)


def read_prompts(given: Any, name: str) -> tuple[list[Prompt], list[str]]:
    """Return the prompts in a field, whatever their form, and what each is called in errors.

    Raises:
        ApiError: The field has none of the forms.
    """
    if isinstance(given, list) and all(isinstance(one, str | list) for one in given):
        names = [name] if len(given) == 1 else [f"{name}[{index}]" for index in range(len(given))]
        return [_prompt(one, place) for one, place in zip(given, names, strict=True)], names
    return [_prompt(given, name)], [name]


def _prompt(given: Any, where: str) -> Prompt:
    if isinstance(given, str):
        return given
    if not isinstance(given, list):
        raise ApiError(f"{where} is {shown(given)}; a text or a list of token ids was expected", param=where)
    for index, token in enumerate(given):
        if isinstance(token, bool) or not isinstance(token, int) or token < 0:
            wrong = f"{where}[{index}] is {shown(token)}"
            raise ApiError(f"{wrong}; token ids are integers from 0, and texts are not mixed with them", param=where)
    return given


def check_token_ids(ids: Iterable[int], vocabulary: int, name: str) -> None:
    """Raise `ApiError` for the first id that is not one of a vocabulary's; `name`: the field, for the error."""
    for token in ids:
        if token >= vocabulary:
            raise ApiError(f"{name} has the token id {token}; the vocabulary has {vocabulary} ids", param=name)
