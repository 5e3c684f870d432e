# SPDX-License-Identifier: Apache-2.0
"""Text from an upstream's `/v1/completions`: the prompt goes there as token ids, tokens come back.

Tokenizing, the text of tokens, stop strings and the end of an answer are this project's own, as in process, so the two
engines differ only in who computes and samples. Every answer is a request of its own.
"""

import contextlib
import dataclasses
import functools
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

from steerlm.errors import InputError, SteerLMError
from steerlm.inference.engine.continuation import Continuation, token_limit
from steerlm.inference.engine.detokenizer import Vocabulary
from steerlm.inference.engine.encode import encode_prompt
from steerlm.inference.engine.json_schema import JsonSchemas
from steerlm.inference.engine.request import Completion, GenerationChunk
from steerlm.inference.engine.sampling_params import SamplingParams
from steerlm.inference.engine.sampling_state import SamplingState, TokenLogprobs
from steerlm.prompt import MARKS
from steerlm.serving.config import ServeSettings
from steerlm.serving.upstream.completions import completion_body, echo_body, read_choice, read_logprobs
from steerlm.serving.upstream.folder import FolderFacts
from steerlm.serving.upstream.served import ServedUpstream

COMPLETIONS = "/v1/completions"


class UpstreamEngine(ServedUpstream):
    """An `AnswerEngine` whose tokens are an upstream's."""

    def __init__(self, folder: Path, settings: ServeSettings) -> None:
        facts = FolderFacts.read(folder)
        super().__init__(facts, settings.upstream)
        self.vocabulary = Vocabulary(self.tokenizer, visible=MARKS)
        self.vocabulary_size, self.end_ids = facts.vocabulary_size, facts.end_ids

    @functools.cached_property
    def json_schemas(self) -> JsonSchemas:
        """Compiles schemas, which checks them; the upstream restricts the answers."""
        return JsonSchemas(self.tokenizer, self.end_ids)

    def encode(self, prompt: str) -> list[int]:
        """See `AnswerEngine.encode`."""
        return encode_prompt(self.tokenizer, prompt)

    def stream(
        self, prompt: list[int], params: SamplingParams, *, whole: bool = False
    ) -> AsyncGenerator[GenerationChunk, None]:
        """See `AnswerEngine.stream`."""
        limit = token_limit(prompt, params.max_tokens, self.window)
        body = completion_body(self._upstream.name, prompt, params, limit)
        # The upstream holds to the schema.
        state = SamplingState(dataclasses.replace(params, grammar=None), prompt)
        continuation = Continuation(state, self.vocabulary, self.end_ids, limit)
        return self._whole(continuation, body) if whole else self._streamed(continuation, body)

    async def complete(self, prompt: list[int], params: SamplingParams) -> Completion:
        """See `AnswerEngine.complete`."""
        return Completion.from_chunks([chunk async for chunk in self.stream(prompt, params, whole=True)])

    async def _whole(self, continuation: Continuation, body: dict[str, Any]) -> AsyncGenerator[GenerationChunk, None]:
        reply = await self._upstream.client.post(COMPLETIONS, body)
        for chunk in self._chunks(continuation, reply):
            yield chunk
        if continuation.finish_reason is None:
            raise SteerLMError("the upstream's answer is not complete")

    async def _streamed(
        self, continuation: Continuation, body: dict[str, Any]
    ) -> AsyncGenerator[GenerationChunk, None]:
        events = self._upstream.client.events(COMPLETIONS, {**body, "stream": True})
        # Closed when the answer ends here first, at a stop string, or when the client leaves.
        async with contextlib.aclosing(events):
            async for event in events:
                for chunk in self._chunks(continuation, event):
                    yield chunk
                if continuation.finish_reason is not None:
                    return
        raise SteerLMError("the upstream's answer is not complete")

    def _chunks(self, continuation: Continuation, reply: dict[str, Any]) -> Iterator[GenerationChunk]:
        """Yield what the one choice of a reply or event adds to a continuation."""
        choice = read_choice(reply)
        if choice is None:
            return
        params = continuation.state.params
        logprobs = read_logprobs(choice.logprobs, params.logprobs) if params.logprobs is not None else []
        last = len(choice.tokens) - 1
        for index, token in enumerate(choice.tokens):
            if not 0 <= token < self.vocabulary_size:
                raise SteerLMError(f"the upstream returns the token {token}; the model has {self.vocabulary_size}")
            text = continuation.append(token)
            if index == last and choice.finish_reason is not None and continuation.finish_reason is None:
                text += continuation.end(choice.finish_reason)
            own = logprobs[index] if index < len(logprobs) else None
            yield GenerationChunk(text, token, continuation.finish_reason, continuation.stop_string, own)
            if continuation.finish_reason is not None:
                return
        if choice.finish_reason is not None:
            text = continuation.end(choice.finish_reason)
            yield GenerationChunk(text, None, continuation.finish_reason, continuation.stop_string)

    async def logprobs(self, ids: list[int], top: int = 0) -> list[TokenLogprobs]:
        """See `AnswerEngine.logprobs`; the ids and one token must fit the window."""
        choice = read_choice(await self._upstream.client.post(COMPLETIONS, echo_body(self._upstream.name, ids, top)))
        if choice is None:
            raise SteerLMError("the upstream returns no log-probabilities of the prompt")
        return read_logprobs(choice.logprobs, top)[: len(ids) - 1]

    async def full_logprobs(self, ids: list[int]) -> list[list[float]]:
        """See `AnswerEngine.full_logprobs`: no upstream returns those of a whole vocabulary."""
        raise InputError("all_probs needs --engine transformers: an upstream returns the most likely tokens only")
