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
from steerlm.inference.engine.json_schema import JsonSchemas
from steerlm.inference.engine.request import Completion, GenerationChunk
from steerlm.inference.engine.sampling import SamplingState, TokenLogprobs
from steerlm.inference.engine.sampling_params import SamplingParams
from steerlm.prompt import MARKS
from steerlm.serving.config import ServeSettings
from steerlm.serving.service import ServiceLoad
from steerlm.serving.upstream.completions import completion_body, echo_body, read_choice, read_logprobs
from steerlm.serving.upstream.folder import FolderFacts
from steerlm.serving.upstream.model import UpstreamModel

COMPLETIONS = "/v1/completions"


class UpstreamEngine:
    """An `AnswerEngine` whose tokens are an upstream's. Of the folder, weights are not loaded.

    Attributes:
        window: Tokens of prompt and answer at most: the folder's, or the upstream's if that is smaller.
    """

    healthy = True

    def __init__(self, folder: Path, settings: ServeSettings) -> None:
        facts = FolderFacts.read(folder)
        self.tokenizer, self.window, self.end_ids = facts.tokenizer, facts.window, facts.end_ids
        self.vocabulary = Vocabulary(self.tokenizer, visible=MARKS)
        self.vocabulary_size = facts.vocabulary_size
        self._upstream = UpstreamModel(facts, settings.upstream)

    @property
    def available(self) -> bool:
        """See `ServedEngine.available`."""
        return self._upstream.client.available

    def load(self) -> ServiceLoad | None:
        """Return None: the upstream's own metrics say what it does."""
        return None

    async def launch(self) -> None:
        """See `ServedEngine.launch`."""
        await self._upstream.find()
        self.window = min(self.window, self._upstream.window or self.window)

    async def shutdown(self) -> None:
        """See `ServedEngine.shutdown`."""
        await self._upstream.client.close()

    @functools.cached_property
    def json_schemas(self) -> JsonSchemas:
        """Compiles schemas, which checks them; the upstream restricts the answers."""
        return JsonSchemas(self.tokenizer, self.end_ids)

    def encode(self, prompt: str) -> list[int]:
        """See `AnswerEngine.encode`."""
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"the text is not valid Unicode at character {error.start}") from None
        ids: list[int] = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        return ids

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
