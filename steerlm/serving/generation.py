# SPDX-License-Identifier: Apache-2.0
"""A language model behind the generation engine, as the generation routes share it."""

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from steerlm.attributes import AttributeSchema
from steerlm.errors import InputError, ModelError, SteerLMError
from steerlm.inference.engine.json_schema import JsonGrammar
from steerlm.inference.engine.request import STOPPED, Completion, GenerationChunk
from steerlm.inference.engine.sampling_params import SamplingParams
from steerlm.prompt import USER, render_prompt
from steerlm.records import Turn
from steerlm.serving.config import ServeSettings
from steerlm.serving.engines import AnswerEngine
from steerlm.serving.errors import ApiError
from steerlm.serving.presets import Preset
from steerlm.serving.prompts import Prompt, beside_the_loop, check_token_ids
from steerlm.serving.ranking import Ranker
from steerlm.serving.request_record import current
from steerlm.serving.service import ServiceLoad

SCHEMA_PLACE = "response_format.json_schema.schema"


@dataclasses.dataclass(frozen=True, slots=True)
class Submission:
    """The answers to one HTTP request: checked, but not started before `completions` or `chunks` runs.

    Attributes:
        prompts: Token ids of each prompt.
        answers: The chunks of each answer, prompt by prompt.
    """

    prompts: list[list[int]]
    answers: list[AsyncGenerator[GenerationChunk, None]]

    async def completions(self) -> list[Completion]:
        """Return all answers, generated together; if one fails, the others are canceled."""

        async def collect(answer: AsyncGenerator[GenerationChunk, None]) -> Completion:
            return Completion.from_chunks([chunk async for chunk in answer])

        record = current()
        record.prompted(sum(map(len, self.prompts)))
        tasks = [asyncio.create_task(collect(answer)) for answer in self.answers]
        try:
            completions = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        for one in completions:
            record.answered(len(one.tokens), one.finish_reason)
        return completions

    async def chunks(self) -> AsyncGenerator[tuple[int, GenerationChunk], None]:
        """Yield (index of the answer, chunk) as they arrive; if one answer fails, the others are canceled."""
        arrived: asyncio.Queue[tuple[int, GenerationChunk] | Exception] = asyncio.Queue()

        async def forward(index: int, answer: AsyncGenerator[GenerationChunk, None]) -> None:
            try:
                async for chunk in answer:
                    arrived.put_nowait((index, chunk))
            except Exception as error:
                arrived.put_nowait(error)

        record = current()
        record.prompted(sum(map(len, self.prompts)))
        tasks = [asyncio.create_task(forward(index, answer)) for index, answer in enumerate(self.answers)]
        try:
            unfinished = len(tasks)
            while unfinished:
                item = await arrived.get()
                if isinstance(item, Exception):
                    raise item
                index, chunk = item
                record.streamed(index, finish_reason=chunk.finish_reason)
                unfinished -= chunk.finish_reason is not None
                yield item
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


class GenerationService:
    """A policy, or a base model without attributes (`schema` is None)."""

    identity = None

    def __init__(
        self,
        engine: AnswerEngine,
        schema: AttributeSchema | None,
        name: str,
        settings: ServeSettings,
        *,
        presets: Mapping[str, Preset] | None = None,
        ranker: Ranker | None = None,
    ) -> None:
        self.engine, self.schema, self.name, self.settings = engine, schema, name, settings
        self.presets, self.ranker = presets or {}, ranker

    @property
    def healthy(self) -> bool:
        """Whether the engine runs and makes progress."""
        return self.engine.healthy

    async def load(self) -> ServiceLoad | None:
        """See `ServedEngine.load`."""
        return await self.engine.load()

    @property
    def available(self) -> bool:
        """Whether the engine can answer now."""
        return self.engine.available

    @property
    def kind(self) -> str:
        """The kind of model."""
        return "policy" if self.schema else "base"

    @property
    def window(self) -> int:
        """Tokens of prompt and answer at most."""
        return self.engine.window

    async def start(self) -> None:
        """Start the engine and generate one token, so that a broken model fails here and not at its first user.

        Raises:
            ModelError: The window has no room for an answer, or the engine has another model.
        """
        await self.engine.launch()
        if self.ranker:
            await self.ranker.open()
        label = self.schema.format(self.schema.complete({})) if self.schema else ""
        ids = self.engine.encode(render_prompt([Turn(value="Hello", speaker=USER)], label))
        if len(ids) >= self.window and self.schema:
            raise ModelError(
                f"the shortest prompt with all attributes has {len(ids)} tokens and leaves no room in the model's "
                f"window of {self.window}"
            )
        await self.engine.complete(ids[: self.window - 1], SamplingParams(max_tokens=1))

    async def stop(self) -> None:
        """Stop the engine."""
        await self.engine.shutdown()
        if self.ranker:
            await self.ranker.close()

    async def submit(
        self,
        prompts: Sequence[Prompt],
        params: SamplingParams,
        n: int = 1,
        *,
        stream: bool = False,
        names: Sequence[str],
        max_tokens_name: str = "max_tokens",
        schema: Mapping[str, Any] | None = None,
    ) -> Submission:
        """Tokenize and check the prompts of a request.

        Args:
            prompts: Texts or token ids.
            params: Parameters of all answers; with a seed, the k-th answer draws the same numbers whenever it is asked.
            n: Answers to each prompt.
            stream: Whether chunks are read while they are generated.
            names: The parameter of each prompt, for errors.
            max_tokens_name: The parameter of the limit, for errors.
            schema: The JSON schema that the answers must conform to; None: any text.

        Raises:
            ApiError: A prompt does not fit the window, the answer may be longer than the server's limit, a token id is
                not in the vocabulary, or the schema cannot be used.
            InputError: A text is not valid Unicode.
            SteerLMError: The engine is not running: a stream that starts could no longer report this by its status.
        """
        check_token_ids(params.logit_bias, self.engine.vocabulary_size, "logit_bias")
        pairs = list(zip(prompts, names, strict=True))
        ids = await beside_the_loop(lambda: [self._encode(*pair) for pair in pairs], prompts)
        if schema is not None:
            params = dataclasses.replace(params, grammar=await asyncio.to_thread(self._grammar, schema))
        if not self.healthy:
            raise SteerLMError(f"{STOPPED} or makes no progress; see the server's log")
        answers: list[AsyncGenerator[GenerationChunk, None]] = []
        for row, name in zip(ids, names, strict=True):
            for _ in range(n):
                own = params.for_answer(len(answers))
                answers.append(self._answer(row, own, stream, name, max_tokens_name))
        return Submission(ids, answers)

    def _grammar(self, schema: Mapping[str, Any]) -> JsonGrammar:
        try:
            return self.engine.json_schemas.compile(schema)
        except InputError as error:
            raise ApiError(f"{SCHEMA_PLACE}: {error}", param=SCHEMA_PLACE) from None

    def _encode(self, prompt: Prompt, name: str) -> list[int]:
        if isinstance(prompt, str):
            return self.engine.encode(prompt)
        check_token_ids(prompt, self.engine.vocabulary_size, name)
        return prompt

    def _answer(
        self, prompt: list[int], params: SamplingParams, stream: bool, name: str, max_tokens_name: str
    ) -> AsyncGenerator[GenerationChunk, None]:
        prefix = f"{name}: " if name.endswith("]") else ""  # one of several prompts
        limit = self.settings.max_tokens
        if limit is not None and params.max_tokens is not None and params.max_tokens > limit:
            raise ApiError(
                f"{prefix}{params.max_tokens} tokens are requested; this server generates at most {limit}",
                param=max_tokens_name,
            )
        if params.max_tokens is None and limit is not None:
            rest = max(1, self.window - len(prompt))
            params = dataclasses.replace(params, max_tokens=min(rest, limit))
        try:
            return self.engine.stream(prompt, params, whole=not stream)
        except ApiError:
            raise
        except InputError as error:
            fits = 0 < len(prompt) < self.window
            raise ApiError(f"{prefix}{error}", param=max_tokens_name if fits else name) from None
