# SPDX-License-Identifier: Apache-2.0
"""A policy behind the engine, as the generation routes share it: schema, self-test, several answers at once."""

import asyncio
import dataclasses
from collections.abc import AsyncGenerator

from steerlm.attributes import AttributeSchema
from steerlm.errors import InputError, ModelError, SteerLMError
from steerlm.inference.engine.engine import Engine
from steerlm.inference.engine.request import Completion, Piece
from steerlm.inference.engine.sampling import Sampling
from steerlm.prompt import USER, render_prompt
from steerlm.records import Turn
from steerlm.serving.config import ServeSettings
from steerlm.serving.errors import ApiError


class GenerationService:
    """`schema` None: a base model, without dials."""

    identity = None

    def __init__(self, engine: Engine, schema: AttributeSchema | None, name: str, settings: ServeSettings) -> None:
        self.engine, self.schema, self.name, self.settings = engine, schema, name, settings

    @property
    def healthy(self) -> bool:
        return self.engine.healthy

    @property
    def kind(self) -> str:
        return "policy" if self.schema else "base"

    @property
    def window(self) -> int:
        return self.engine.window

    async def start(self) -> None:
        """Start the engine and write a few tokens: a model that cannot is told now, not to the first user."""
        self.engine.start()
        label = self.schema.format(self.schema.complete({})) if self.schema else ""
        ids = self.engine.encode(render_prompt([Turn(value="Hello", speaker=USER)], label))
        room = self.engine.window - len(ids)
        if room < 1 and self.schema:
            await self.stop()
            raise ModelError(
                f"the shortest prompt with all dials has {len(ids)} tokens and leaves no room in the model's window of "
                f"{self.engine.window}"
            )
        await self.engine.complete(ids[: self.engine.window - 1], Sampling(max_tokens=1))

    async def stop(self) -> None:
        await asyncio.to_thread(self.engine.stop)

    def room(self, prompt: list[int]) -> int:
        """The tokens that an answer to `prompt` may have at most: the rest of the window, or the server's limit."""
        rest = self.engine.window - len(prompt)
        return rest if self.settings.max_tokens is None else min(rest, self.settings.max_tokens)

    def check(self, prompt: list[int], max_tokens: int, *, prompt_param: str, tokens_param: str) -> None:
        """Raise `ApiError` naming the parameter at fault if the request does not fit the window or the limit.

        `SteerLMError` if the engine is dead: a stream that only began would have told its status already.
        """
        if not self.healthy:
            raise SteerLMError("the generation engine does not run or makes no progress")
        limit = self.settings.max_tokens
        if limit is not None and max_tokens > limit:
            raise ApiError(f"{max_tokens} tokens are asked for; this server writes at most {limit}", param=tokens_param)
        try:
            self.engine.check_length(prompt, max_tokens)
        except InputError as error:
            short = 0 < len(prompt) < self.engine.window
            raise ApiError(str(error), param=tokens_param if short else prompt_param) from None

    async def several(self, prompts: list[list[int]], samplings: list[Sampling]) -> list[Completion]:
        """All continuations, computed together; if one fails the others are cancelled."""
        tasks = [
            asyncio.create_task(self.engine.complete(prompt, sampling))
            for prompt, sampling in zip(prompts, samplings, strict=True)
        ]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def interleaved(
        self, prompts: list[list[int]], samplings: list[Sampling]
    ) -> AsyncGenerator[tuple[int, Piece], None]:
        """(index of the answer, piece) of several answers, as they come."""
        pieces: asyncio.Queue[tuple[int, Piece] | BaseException] = asyncio.Queue()

        async def pump(index: int, prompt: list[int], sampling: Sampling) -> None:
            try:
                async for piece in self.engine.stream(prompt, sampling):
                    pieces.put_nowait((index, piece))
            except Exception as error:
                pieces.put_nowait(error)

        pairs = enumerate(zip(prompts, samplings, strict=True))
        tasks = [asyncio.create_task(pump(i, prompt, sampling)) for i, (prompt, sampling) in pairs]
        try:
            left = len(tasks)
            while left:
                item = await pieces.get()
                if isinstance(item, BaseException):
                    raise item
                left -= item[1].finish is not None
                yield item
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def reseeded(sampling: Sampling, n: int) -> list[Sampling]:
    """The settings of `n` answers to one request: with a seed each draws its own numbers, reproducibly."""
    seed = sampling.seed
    return [dataclasses.replace(sampling, seed=None if seed is None else seed + i) for i in range(n)]
