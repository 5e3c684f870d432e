# SPDX-License-Identifier: Apache-2.0
"""Scores from an upstream's `/classify`, as vLLM has it for a reward folder.

Token ids are sent, so a score is that of the same tokens as in training. The upstream batches; here a long request is
only divided.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from steerlm.attributes import AttributeSchema
from steerlm.errors import ModelError, SteerLMError
from steerlm.inference.identity import folder_identity, resolve_precision
from steerlm.serving.config import ServeSettings
from steerlm.serving.engines import Scores
from steerlm.serving.upstream.folder import FolderFacts
from steerlm.serving.upstream.served import ServedUpstream

CLASSIFY = "/classify"


class UpstreamScorer(ServedUpstream):
    """A `ScoreEngine` whose forward passes are an upstream's.

    Attributes:
        schema: Attributes of the score vector, in its order.
        identity: Other than that of the folder's model in process, whose scores differ in their last digits; None if
            the folder has no weights.
    """

    def __init__(self, folder: Path, settings: ServeSettings) -> None:
        facts = FolderFacts.read(folder)
        if facts.info.attributes is None:
            raise ModelError(f"{folder}: a reward model needs its attributes")
        super().__init__(facts, settings.upstream)
        self.schema: AttributeSchema = facts.info.attributes
        self.identity = _identity(folder)
        self._per_request = settings.score.max_batch

    async def score(self, texts: Sequence[list[int]], *, alone: bool = False) -> Scores:
        """See `ScoreEngine.score`. An upstream cannot be asked to score a text alone."""
        size = self._per_request
        parts = [texts[start : start + size] for start in range(0, len(texts), size)]
        tasks = [asyncio.create_task(self._score(part)) for part in parts]
        try:
            return np.concatenate(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    async def _score(self, rows: Sequence[list[int]]) -> Scores:
        # A folder says by itself that its head has no activation; one made elsewhere may not.
        body = {"model": self._upstream.name, "input": list(rows), "use_activation": False}
        reply = await self._upstream.client.post(CLASSIFY, body)
        try:
            data = sorted(reply["data"], key=lambda one: int(one["index"]))
            scores = np.asarray([one["probs"] for one in data], dtype=np.float32)
        except (KeyError, TypeError, ValueError):
            scores = np.empty(0, dtype=np.float32)
        wanted = (len(rows), len(self.schema.names))
        if scores.shape != wanted or not np.isfinite(scores).all():
            raise SteerLMError(f"the upstream's scores have the shape {scores.shape}, or are not finite; not {wanted}")
        return scores


def _identity(folder: Path) -> str | None:
    if not any(folder.glob("*.safetensors")):
        return None
    return f"upstream-{folder_identity(folder, resolve_precision(folder, 'auto', accelerator=True))}"
