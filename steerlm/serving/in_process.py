# SPDX-License-Identifier: Apache-2.0
"""The engines that run a model folder with transformers in this process."""

import asyncio
from pathlib import Path
from typing import Any

from steerlm.inference.engine.engine import GenerationEngine
from steerlm.inference.engine.sampling_state import MIN_LOGPROB, TokenLogprobs
from steerlm.inference.loading import load
from steerlm.inference.scorer import TransformersScorer
from steerlm.serving.config import ScoreSettings, ServeSettings
from steerlm.serving.score_batching import ScoreBatcher
from steerlm.serving.service import ServiceLoad


class InProcessEngine(GenerationEngine):
    """An `AnswerEngine`: the generation engine, whose blocking calls run in other threads."""

    @property
    def available(self) -> bool:
        """See `ServedEngine.available`."""
        return self.healthy

    async def load(self) -> ServiceLoad:
        """See `ServedEngine.load`."""
        return ServiceLoad(*self.queue_sizes())

    async def launch(self) -> None:
        """See `ServedEngine.launch`."""
        self.start()

    async def shutdown(self) -> None:
        """See `ServedEngine.shutdown`."""
        await asyncio.to_thread(self.stop)

    async def logprobs(self, ids: list[int], top: int = 0) -> list[TokenLogprobs]:
        """See `AnswerEngine.logprobs`; takes a forward pass."""
        return await asyncio.to_thread(self.prompt_logprobs, ids, top)

    async def full_logprobs(self, ids: list[int]) -> list[list[float]]:
        """See `AnswerEngine.full_logprobs`; takes a forward pass."""

        def compute() -> list[list[float]]:
            values: list[list[float]] = self.distributions(ids).clamp(min=MIN_LOGPROB).tolist()
            return values

        return await asyncio.to_thread(compute)


class InProcessScorer(ScoreBatcher):
    """A `ScoreEngine`: a reward model behind micro-batching."""

    def __init__(self, scorer: TransformersScorer, settings: ScoreSettings) -> None:
        super().__init__(scorer, settings)
        self.schema, self.window, self.identity = scorer.schema, scorer.window, scorer.identity

    @property
    def available(self) -> bool:
        """See `ServedEngine.available`."""
        return self.healthy

    async def launch(self) -> None:
        """See `ServedEngine.launch`."""
        self.start()

    async def shutdown(self) -> None:
        """See `ServedEngine.shutdown`."""
        await asyncio.to_thread(self.stop)


def load_engine(folder: Path, settings: ServeSettings) -> InProcessEngine:
    """Load a folder's language model.

    Raises:
        ModelError: It cannot be loaded.
    """
    loaded = load(folder, head=False)
    return InProcessEngine(loaded.model, loaded.tokenizer, loaded.window, settings.engine)


def load_scorer(folder: Path, settings: ServeSettings) -> tuple[InProcessScorer, Any]:
    """Load a folder's reward model; return it and its tokenizer.

    Raises:
        ModelError: It cannot be loaded.
    """
    scorer = TransformersScorer(folder)
    return InProcessScorer(scorer, settings.score), scorer.tokenizer
