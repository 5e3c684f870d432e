# SPDX-License-Identifier: Apache-2.0
"""`POST /v1/score`: raw scores and labels from a reward model.

The input is texts that end with the read-out mark, or conversations, chat messages or a prompt with its response
(`score_inputs.py`). Labels are scores clamped and rounded, of the trained attributes only.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from pydantic import BaseModel

from steerlm.attributes import AttributeSchema
from steerlm.errors import ModelError, nearest
from steerlm.prompt import render_readout
from steerlm.records import Conversation, Turn
from steerlm.serving.admission import cancel_on_disconnect
from steerlm.serving.config import ServeSettings
from steerlm.serving.engines import ScoreEngine, Scores
from steerlm.serving.errors import UNKNOWN, ApiError
from steerlm.serving.presets import Preset
from steerlm.serving.prompts import beside_the_loop
from steerlm.serving.request_record import current
from steerlm.serving.score_inputs import ScoreRequest, TurnIndex, score_inputs
from steerlm.serving.service import ServiceLoad

router = APIRouter(tags=["scoring"])


class ScoringService:
    """A reward model."""

    kind = "reward"

    presets: Mapping[str, Preset] = {}

    def __init__(self, engine: ScoreEngine, tokenizer: Any, name: str, settings: ServeSettings) -> None:
        self.engine, self.name, self.settings = engine, name, settings
        self._tokenizer = tokenizer

    @property
    def schema(self) -> AttributeSchema:
        """Attributes that the model rates."""
        return self.engine.schema

    @property
    def window(self) -> int:
        """Tokens of a text at most."""
        return self.engine.window

    @property
    def identity(self) -> str | None:
        """See `ScoreEngine.identity`."""
        return self.engine.identity

    @property
    def healthy(self) -> bool:
        """Whether this process does its part."""
        return self.engine.healthy

    @property
    def available(self) -> bool:
        """Whether the engine can score now."""
        return self.engine.available

    async def load(self) -> ServiceLoad | None:
        """See `ServedEngine.load`."""
        return await self.engine.load()

    async def start(self) -> None:
        """Start the engine and score two texts.

        Raises:
            ModelError: The scores cannot be those of a regression head, or the engine has another model.
        """
        await self.engine.launch()
        turns = [Turn(value="What is it?", speaker="User"), Turn(value="It is a test.", speaker="Assistant")]
        probe = Conversation(conversations=turns)
        texts = self.encode([render_readout(probe, 1), render_readout(probe, 0)])
        check_scores(await self.engine.score(texts), self.schema)

    async def score(self, texts: Sequence[list[int]], *, alone: bool = False) -> Scores:
        """Return [n, attributes] fp32 scores, and count them; see `ScoreEngine.score`."""
        record = current()
        record.prompted(sum(map(len, texts)))
        scores = await self.engine.score(texts, alone=alone)
        record.scored(scores)
        return scores

    async def stop(self) -> None:
        """Stop the engine."""
        await self.engine.shutdown()

    def check_model(self, model: str | None) -> None:
        """Raise `ApiError` if a request is for another model."""
        if model not in (None, self.name):
            raise ApiError(f"no model {model!r} here{nearest(model, [self.name])}", param="model", status=404)

    def check_count(self, texts: int) -> None:
        """Raise `ApiError` if these are more texts than one request may have."""
        limit = self.settings.score.max_texts
        if texts > limit:
            raise ApiError(f"{texts} texts at once; the limit is {limit}", status=413)

    def check_lengths(self, rows: Sequence[list[int]], names: Sequence[str]) -> None:
        """Raise `ApiError` naming the first text that is longer than the window."""
        for row, name in zip(rows, names, strict=True):
            if len(row) > self.window:
                message = f"{name} has {len(row)} tokens; the model's window is {self.window}"
                raise ApiError(message, param=name.partition(" ")[0], status=413)

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids."""
        return len(self._tokenizer)

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Return the ids of each text as in training: tokenized whole, without special tokens added.

        Raises:
            ApiError: A text is not valid Unicode.
        """
        if not texts:
            return []
        for index, text in enumerate(texts):
            # JSON can represent half of a surrogate pair.
            if any("\ud800" <= character <= "\udfff" for character in text):
                raise ApiError(f"text {index} is not valid Unicode")
        ids: list[list[int]] = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
        return ids


def check_scores(scores: Any, schema: AttributeSchema) -> None:
    """Check that scores [n, attributes] can be those of a regression head.

    Scores that went through a softmax are the most common mistake in serving a reward model
    (docs/upstream.md#serving-mistakes).

    Raises:
        ModelError: They have another shape, are not finite, or are a softmax.
    """
    if scores.ndim != 2 or scores.shape[1] != len(schema.names):
        raise ModelError(f"the model returns scores of shape {scores.shape} for {len(schema.names)} attributes")
    if not np.isfinite(scores).all():
        raise ModelError("the model returns scores that are not finite numbers")
    simplex = (scores >= 0).all() and np.allclose(scores.sum(axis=1), 1.0, atol=1e-4)
    if simplex and len(schema.names) > 1:
        raise ModelError(
            "the scores of every text sum to 1: they are a softmax, not ratings; "
            'config.json needs "problem_type": "regression"'
        )


class ScoreResponse(BaseModel):
    """`scores[i]` in the order of `attributes`; for conversations, `turns[i]` is the turn that was scored."""

    model: str
    attributes: list[str]
    scores: list[list[float]]
    labels: list[dict[str, int]]
    turns: list[TurnIndex] | None = None


@router.post(
    "/v1/score",
    summary="Attribute scores of texts, conversations, messages, or a prompt and its response",
    response_model=ScoreResponse,
    responses=UNKNOWN,
)
async def score(request: Request, body: ScoreRequest) -> ScoreResponse:
    """Score what the request holds."""
    service: ScoringService = request.app.state.service
    service.check_model(body.model)
    inputs = score_inputs(body, strip=service.settings.strip_markers)
    service.check_count(len(inputs.texts))
    rows = await beside_the_loop(lambda: service.encode(inputs.texts), inputs.texts)
    if body.over_long == "keep_end":
        rows = [row[-service.window :] for row in rows]
    service.check_lengths(rows, inputs.names)
    scores: list[list[float]] = []
    if rows:
        scores = (await cancel_on_disconnect(request, service.score(rows, alone=body.alone))).tolist()
    return ScoreResponse(
        model=service.name,
        attributes=list(service.schema.names),
        scores=scores,
        labels=[service.schema.round(row) for row in scores],
        turns=inputs.turns,
    )
