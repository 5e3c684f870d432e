# SPDX-License-Identifier: Apache-2.0
"""`POST /v1/score`: raw scores and labels from a reward model.

The input is texts that end with the read-out mark, or conversations, of which every turn that is not the masked role's
is scored. Labels are scores clamped and rounded, of the trained attributes only.
"""

import asyncio
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from steerlm.attributes import AttributeSchema
from steerlm.errors import ModelError
from steerlm.inference.scorer import TransformersScorer
from steerlm.prompt import LABEL_MARK, render_readout
from steerlm.records import Conversation, Turn
from steerlm.serving.admission import cancel_on_disconnect
from steerlm.serving.chat_prompt import without_marks
from steerlm.serving.config import ServeSettings
from steerlm.serving.errors import ApiError
from steerlm.serving.score_batching import ScoreBatcher

router = APIRouter(tags=["scoring"])


class ScoringService:
    """A reward model behind micro-batching."""

    kind = "reward"

    def __init__(self, scorer: TransformersScorer, tokenizer: Any, name: str, settings: ServeSettings) -> None:
        self.schema, self.window, self.identity = scorer.schema, scorer.window, scorer.identity
        self.name, self.settings = name, settings
        self._tokenizer = tokenizer
        self.batcher = ScoreBatcher(scorer, settings.score)

    @property
    def healthy(self) -> bool:
        """Whether the scoring thread is alive."""
        return self.batcher.healthy

    async def start(self) -> None:
        """Start the scoring thread and score two texts.

        Raises:
            ModelError: The scores cannot be those of a regression head.
        """
        self.batcher.start()
        turns = [Turn(value="What is it?", speaker="User"), Turn(value="It is a test.", speaker="Assistant")]
        probe = Conversation(conversations=turns)
        texts = self.encode([render_readout(probe, 1), render_readout(probe, 0)])
        check_scores(await self.batcher.score(texts), self.schema)

    async def stop(self) -> None:
        """Stop the scoring thread."""
        await asyncio.to_thread(self.batcher.stop)

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


class ScoreRequest(BaseModel):
    """Either `texts` or `conversations`.

    `use_system`: use a conversation's own system prompt instead of the constant one. `over_long`: a text longer than
    the window is an error, or its last tokens are scored. `alone`: share no forward pass with other requests, so that
    the last digits of the scores depend on this request only.
    """

    model_config = ConfigDict(extra="forbid")

    model: str | None = None
    texts: list[str] | None = Field(None, description=f"each ends with {LABEL_MARK}")
    conversations: list[Conversation] | None = None
    use_system: bool = False
    over_long: Literal["error", "keep_end"] = "error"
    alone: bool = False


class TurnIndex(BaseModel):
    """A turn of a request's conversations."""

    conversation: int
    turn: int


class ScoreResponse(BaseModel):
    """`scores[i]` in the order of `attributes`; for conversations, `turns[i]` is the turn that was scored."""

    model: str
    attributes: list[str]
    scores: list[list[float]]
    labels: list[dict[str, int]]
    turns: list[TurnIndex] | None = None


@router.post("/v1/score", summary="Attribute scores of texts or of conversations", response_model=ScoreResponse)
async def score(request: Request, body: ScoreRequest) -> ScoreResponse:
    """Score texts or conversations."""
    service: ScoringService = request.app.state.service
    if (body.texts is None) == (body.conversations is None):
        raise ApiError("give either texts or conversations", param="texts")
    if body.texts is not None:
        texts, turns = body.texts, None
        for index, text in enumerate(texts):
            if not text.endswith(LABEL_MARK):
                where = f"texts[{index}]"
                raise ApiError(f"{where} must end with the read-out mark {LABEL_MARK}", param=where)
    else:
        texts, turns = _readouts(body.conversations or [], body.use_system, service.settings.strip_markers)
    limit = service.settings.score.max_texts
    if len(texts) > limit:
        raise ApiError(f"{len(texts)} texts at once; the limit is {limit}", status=413)
    rows = await asyncio.to_thread(service.encode, texts)
    if body.over_long == "keep_end":
        rows = [row[-service.window :] for row in rows]
    for index, row in enumerate(rows):
        if len(row) > service.window:
            param = f"texts[{index}]" if turns is None else f"conversations[{turns[index].conversation}]"
            turn = "" if turns is None else f" turn {turns[index].turn}"
            raise ApiError(
                f"{param}{turn} has {len(row)} tokens; the model's window is {service.window}", param=param, status=413
            )
    scores: list[list[float]] = []
    if rows:
        scores = (await cancel_on_disconnect(request, service.batcher.score(rows, alone=body.alone))).tolist()
    return ScoreResponse(
        model=service.name,
        attributes=list(service.schema.names),
        scores=scores,
        labels=[service.schema.round(row) for row in scores],
        turns=turns,
    )


def _readouts(conversations: list[Conversation], use_system: bool, strip: bool) -> tuple[list[str], list[TurnIndex]]:
    """Return the read-out text of every turn that is not masked, and which turn it is."""
    texts, indices = [], []
    for c, conversation in enumerate(conversations):
        turns = []
        for t, turn in enumerate(conversation.conversations):
            value = without_marks(turn.value, f"conversations[{c}].conversations[{t}].value", strip=strip)
            turns.append(turn.model_copy(update={"value": value}))
        system = without_marks(conversation.system, f"conversations[{c}].system", strip=strip)
        clean = conversation.model_copy(update={"conversations": turns, "system": system})
        for t, turn in enumerate(turns):
            if turn.speaker != conversation.mask:
                texts.append(render_readout(clean, t, use_system=use_system))
                indices.append(TurnIndex(conversation=c, turn=t))
    return texts, indices
