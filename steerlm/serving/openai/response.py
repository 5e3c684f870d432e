# SPDX-License-Identifier: Apache-2.0
"""Responses in OpenAI's form (docs/upstream.md#openai-wire-format), whole or as server-sent events.

What a choice looks like is the route's; log-probabilities of both routes are here.
"""

import contextlib
import json
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import Any

from starlette.requests import Request

from steerlm.inference.engine.detokenizer import Vocabulary
from steerlm.inference.engine.request import Completion, GenerationChunk
from steerlm.inference.engine.sampling_state import TokenLogprobs
from steerlm.serving.admission import cancel_on_disconnect
from steerlm.serving.errors import error_event

ResponseChoice = dict[str, Any]


class ResponseWriter:
    """Writes the response to one request."""

    def __init__(
        self, model: str, id_prefix: str, objects: tuple[str, str], prompt_tokens: int, extra: dict[str, Any]
    ) -> None:
        """Start a response.

        Args:
            model: The id of the model.
            id_prefix: Of the response's id.
            objects: `object` of the whole response and of a chunk.
            prompt_tokens: Tokens of all prompts.
            extra: Fields of the whole response and of the first chunk of each answer.
        """
        self._head = {"id": f"{id_prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._whole_object, self._chunk_object = objects
        self._prompt_tokens, self._extra = prompt_tokens, extra

    def whole(self, choices: list[ResponseChoice], answers: Sequence[Completion]) -> dict[str, Any]:
        """Return the response in one piece."""
        usage = self._usage(sum(len(answer.tokens) for answer in answers))
        return {**self._head, "object": self._whole_object, "choices": choices, "usage": usage, **self._extra}

    async def events(
        self,
        opening: Sequence[ResponseChoice],
        chunks: AsyncGenerator[tuple[int, GenerationChunk], None],
        choices: Callable[[int, GenerationChunk], list[ResponseChoice]],
        include_usage: bool,
    ) -> AsyncIterator[str]:
        """Yield the events of a stream. A failure ends it with an `error` event and without `[DONE]`.

        Args:
            opening: Choices to send before the first chunk.
            chunks: (index of the answer, chunk).
            choices: Returns the choices to send for a chunk.
            include_usage: Whether to send a usage event at the end.
        """
        for choice in opening:
            yield self._event([choice], **self._extra)
        tokens = 0
        try:
            async with contextlib.aclosing(chunks):
                async for index, chunk in chunks:
                    tokens += chunk.token is not None
                    for choice in choices(index, chunk):
                        yield self._event([choice])
        except Exception as error:
            yield error_event(error)
            return
        if include_usage:
            yield self._event([], usage=self._usage(tokens))
        yield "data: [DONE]\n\n"

    def _event(self, choices: list[ResponseChoice], **extra: Any) -> str:
        return f"data: {json.dumps({**self._head, 'object': self._chunk_object, 'choices': choices, **extra})}\n\n"

    def _usage(self, completion_tokens: int) -> dict[str, int]:
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": self._prompt_tokens + completion_tokens,
        }


async def begun(
    request: Request, chunks: AsyncGenerator[tuple[int, GenerationChunk], None]
) -> AsyncGenerator[tuple[int, GenerationChunk], None]:
    """Wait for the first chunk of a stream; return the stream with it.

    A failure before it is raised here, where it still becomes an HTTP status; later ones are events.
    """
    first = await cancel_on_disconnect(request, _first(chunks))

    async def all_chunks() -> AsyncGenerator[tuple[int, GenerationChunk], None]:
        async with contextlib.aclosing(chunks):
            yield first
            async for item in chunks:
                yield item

    return all_chunks()


async def _first(chunks: AsyncGenerator[tuple[int, GenerationChunk], None]) -> tuple[int, GenerationChunk]:
    return await anext(chunks)


def chat_logprobs(logprobs: Sequence[TokenLogprobs], vocabulary: Vocabulary) -> dict[str, Any]:
    """Return `choices[].logprobs` of a chat completion: one entry per token, those of a stop string included."""

    def entry(token: int, logprob: float) -> dict[str, Any]:
        text, utf8 = vocabulary.token_text(token)
        return {"token": text, "logprob": logprob, "bytes": utf8}

    content = [
        {**entry(one.token, one.logprob), "top_logprobs": [entry(token, value) for token, value in one.top]}
        for one in logprobs
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(
    logprobs: Sequence[TokenLogprobs | int], vocabulary: Vocabulary, offset: int = 0, *, token_names: bool = False
) -> dict[str, Any]:
    """Return `choices[].logprobs` of a completion, and under `end` where the text of its last token ends.

    Args:
        logprobs: One per token; only the id for the first token of an echoed prompt, which has no probability.
        vocabulary: Decodes tokens.
        offset: Where the text of the first token starts.
        token_names: Name tokens by their ids instead of their texts.
    """
    tokens: list[str] = []
    offsets: list[int] = []
    values: list[float | None] = []
    tops: list[dict[str, float] | None] = []

    def name(token: int) -> str:
        return f"token_id:{token}" if token_names else vocabulary.token_text(token)[0]

    for one in logprobs:
        token = one if isinstance(one, int) else one.token
        tokens.append(name(token))
        offsets.append(offset)
        offset += len(vocabulary.token_text(token)[0])
        if isinstance(one, int):
            values.append(None)
            tops.append(None)
        else:
            values.append(one.logprob)
            # Of tokens with equal text the most likely one is kept, and the chosen one before all others.
            top = {name(other): value for other, value in reversed(one.top)}
            tops.append(top | {name(token): one.logprob})
    return {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets, "end": offset}
