# SPDX-License-Identifier: Apache-2.0
"""Best of n: candidates of one chat request, scored by a reward server of ours and ordered by what the request weighs.

Known here: how a conversation and an answer become a text to score, and what `rank_by` may be. Not known: how answers
are generated.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from steerlm.attributes import AttributeSchema
from steerlm.errors import nearest, shown
from steerlm.prompt import render_readout
from steerlm.serving.config import RewardServerSettings
from steerlm.serving.errors import ApiError
from steerlm.serving.messages import ChatMessage
from steerlm.serving.score_inputs import has_system, readout_of_messages
from steerlm.serving.upstream.client import UpstreamClient, UpstreamError, read_key

RANK_BY = "rank_by"
OverLong = Literal["error", "keep_end"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """An answer with what the reward model says of it.

    Attributes:
        index: In the order of generation.
        scores: Raw scores by trained attribute.
        value: The weighted sum that orders candidates.
    """

    index: int
    scores: dict[str, float]
    value: float


class Ranker:
    """A client of a reward server, which need not run yet."""

    def __init__(self, settings: RewardServerSettings) -> None:
        assert settings.url is not None
        self._client = UpstreamClient(settings.url, read_key(settings.key_file), called="the reward server")
        self._schema: AttributeSchema | None = None

    async def open(self) -> None:
        """Make the pool of connections."""
        await self._client.open()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def schema(self) -> AttributeSchema:
        """Return the attributes that the reward model rates; asked once.

        Raises:
            ApiError: The server does not answer, or is no reward server of ours.
        """
        if self._schema is None:
            model = await self._ask("/v1/model")
            try:
                if model["kind"] != "reward":
                    raise ValueError(model["kind"])
                self._schema = AttributeSchema.model_validate(model["attributes"])
            except (KeyError, TypeError, ValueError, ValidationError):
                raise self._fault("is not one of SteerLM") from None
        return self._schema

    async def weights(self, rank_by: Any) -> dict[str, float]:
        """Return the weights in a request's `rank_by`: an attribute's name, or numbers by attribute.

        Raises:
            ApiError: It is neither, or an attribute is not one that the reward model rates.
        """
        schema = await self.schema()
        given = {rank_by: 1.0} if isinstance(rank_by, str) else rank_by
        form = 'an attribute such as "quality", or weights such as {"quality": 1, "verbosity": -0.5}'
        if not isinstance(given, Mapping) or not given:
            raise ApiError(f"{RANK_BY} must be {form}, not {shown(rank_by)}", param=RANK_BY)
        for name, weight in given.items():
            if name not in schema.active:
                hint = nearest(name, schema.active)
                raise ApiError(f"{RANK_BY}: the reward model rates no {name!r}{hint}", param=RANK_BY)
            number = isinstance(weight, int | float) and not isinstance(weight, bool)
            # An integer may be larger than every float.
            if not number or not abs(weight) <= 1e6:
                raise ApiError(f"{RANK_BY}.{name} must be a number, not {shown(weight)}", param=RANK_BY)
        return {name: float(weight) for name, weight in given.items()}

    async def scores(
        self, messages: Sequence[ChatMessage], answers: Sequence[str], *, over_long: OverLong = "error"
    ) -> list[dict[str, float]]:
        """Return the scores by trained attribute of each answer to a conversation.

        Args:
            messages: What was said before the answer.
            answers: Their marks are removed.
            over_long: What is done with a text beyond the reward model's window: "keep_end" scores its end.

        Raises:
            ApiError: The reward server does not answer, or refuses a text.
        """
        schema = await self.schema()
        texts = []
        for answer in answers:
            # What a model writes is scored as it is, but for marks, which are the template's.
            whole = [*messages, ChatMessage(role="assistant", content=answer)]
            conversation = readout_of_messages(whole, strip=True)
            last = len(conversation.conversations) - 1
            texts.append(render_readout(conversation, last, use_system=has_system(conversation)))
        # Scored alone, so that the ranking does not depend on other requests.
        reply = await self._ask("/v1/score", {"texts": texts, "alone": True, "over_long": over_long})
        try:
            names, rows = reply["attributes"], reply["scores"]
            scores = [{name: float(value) for name, value in zip(names, row, strict=True)} for row in rows]
        except (KeyError, TypeError, ValueError):
            names, scores = None, []
        finite = all(math.isfinite(value) for row in scores for value in row.values())
        if names != list(schema.names) or len(scores) != len(texts) or not finite:
            self._schema = None
            raise self._fault(f"does not return the scores of {len(texts)} texts; try again")
        return [{name: row[name] for name in schema.active} for row in scores]

    async def rank(
        self, messages: Sequence[ChatMessage], answers: Sequence[str], weights: Mapping[str, float]
    ) -> list[Candidate]:
        """Return the answers as candidates, the best one first; of equal ones the first generated.

        Raises:
            ApiError: See `scores`.
        """
        scores = await self.scores(messages, answers)
        candidates = [
            Candidate(index, row, sum(weight * row[name] for name, weight in weights.items()))
            for index, row in enumerate(scores)
        ]
        return sorted(candidates, key=lambda candidate: -candidate.value)

    async def _ask(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        try:
            return await (self._client.get(path) if body is None else self._client.post(path, body))
        except UpstreamError as error:
            if error.upstream_status in (401, 403):
                raise ApiError(
                    "the reward server refuses this server's key; who runs it gives the right one by --reward-key-file",
                    status=502,
                    reason="upstream",
                    detail=error.detail,
                ) from None
            raise

    def _fault(self, what: str) -> ApiError:
        detail = f"the reward server {self._client.url} {what}"
        return ApiError(f"the reward server {what}", status=502, reason="upstream", detail=detail)
