# SPDX-License-Identifier: Apache-2.0
"""Replies in OpenAI's form, whole or as server-sent events, and how log-probabilities are written in them.

Knows the wire; what a choice looks like is the route's. Source: serving facts 6.
"""

import contextlib
import json
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import Any

from steerlm.inference.engine.engine import Engine
from steerlm.inference.engine.request import Piece
from steerlm.inference.engine.sampling import TokenLog
from steerlm.serving.errors import error_event

Choice = dict[str, Any]


class Reply:
    """The frame of one request's reply. `more` stands beside the choices of the whole and of the opening chunks."""

    def __init__(self, model: str, prefix: str, objects: tuple[str, str], tokens: int, more: dict[str, Any]) -> None:
        """`objects`: the names of the whole and of a chunk; `tokens`: of the prompt."""
        self._head = {"id": f"{prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._whole, self._chunk = objects
        self._prompt_tokens, self._more = tokens, more

    def _usage(self, tokens: int) -> dict[str, int]:
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": self._prompt_tokens + tokens,
        }

    def whole(self, choices: list[Choice], tokens: int) -> dict[str, Any]:
        """The reply in one piece; `tokens`: how many were generated."""
        return {**self._head, "object": self._whole, "choices": choices, "usage": self._usage(tokens), **self._more}

    def _event(self, choices: list[Choice], **more: Any) -> str:
        return f"data: {json.dumps({**self._head, 'object': self._chunk, 'choices': choices, **more})}\n\n"

    async def events(
        self,
        opening: Sequence[Choice],
        pieces: AsyncGenerator[tuple[int, Piece], None],
        choices: Callable[[int, Piece], list[Choice]],
        include_usage: bool,
    ) -> AsyncIterator[str]:
        """A chunk for each choice of `opening`, then for each that `choices` makes of a piece, and the end.

        A failure in the middle is an `error` event and the end of the stream, without `[DONE]`.
        """
        for choice in opening:
            yield self._event([choice], **self._more)
        tokens = 0
        try:
            async with contextlib.aclosing(pieces):
                async for index, piece in pieces:
                    tokens += piece.token is not None
                    for choice in choices(index, piece):
                        yield self._event([choice])
        except Exception as error:
            yield error_event(error)
            return
        if include_usage:
            yield self._event([], usage=self._usage(tokens))
        yield "data: [DONE]\n\n"


def chat_logprobs(logs: Sequence[TokenLog], engine: Engine) -> dict[str, Any]:
    """`choices[].logprobs` of a chat completion: an entry for each generated token, those of a stop string included."""

    def entry(token: int, logprob: float) -> dict[str, Any]:
        text, utf8 = engine.token_text(token)
        return {"token": text, "logprob": logprob, "bytes": utf8}

    content = [
        {**entry(log.token, log.logprob), "top_logprobs": [entry(token, value) for token, value in log.top]}
        for log in logs
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(logs: Sequence[TokenLog | int], engine: Engine, at: int = 0) -> dict[str, Any]:
    """`choices[].logprobs` of a completion; `at`: the offset of the first token's text.

    An element that is a token id alone is the first of an echoed prompt, which nothing predicts.
    """
    tokens: list[str] = []
    offsets: list[int] = []
    values: list[float | None] = []
    tops: list[dict[str, float] | None] = []
    for log in logs:
        text = engine.token_text(log if isinstance(log, int) else log.token)[0]
        tokens.append(text)
        offsets.append(at)
        at += len(text)
        if isinstance(log, int):
            values.append(None)
            tops.append(None)
        else:
            values.append(log.logprob)
            # A later token of the same text replaces an earlier one: the likeliest, and at last the chosen one, stay.
            top = {engine.token_text(token)[0]: value for token, value in reversed(log.top)}
            tops.append(top | {text: log.logprob})
    return {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}
