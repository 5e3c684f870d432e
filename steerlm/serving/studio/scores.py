# SPDX-License-Identifier: Apache-2.0
"""`POST /v1/studio/scores`: what answers obtained by the reward server, to be compared with what was asked."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from steerlm.serving.errors import UNKNOWN, ApiError
from steerlm.serving.generation import GenerationService
from steerlm.serving.messages import ChatMessage

router = APIRouter(tags=["studio"])

MAX_ANSWERS = 128
"""Answers of one request: a sweep with several answers to each value."""


class ObtainedRequest(BaseModel):
    """Chats, of each of which the last message is scored; it must be the assistant's."""

    model_config = ConfigDict(extra="forbid")

    chats: Annotated[list[list[ChatMessage]], Field(min_length=1, max_length=MAX_ANSWERS)]


class ObtainedResponse(BaseModel):
    """`scores[i]` of the i-th chat in the order of `attributes`, raw, which may lie outside `low`..`high`."""

    attributes: list[str]
    low: int
    high: int
    scores: list[list[float]]


@router.post(
    "/v1/studio/scores", summary="What answers obtained: scores by the server's reward server", responses=UNKNOWN
)
async def scores(request: Request, body: ObtainedRequest) -> ObtainedResponse:
    """Score the last message of each chat."""
    service: GenerationService = request.app.state.service
    obtained = service.ranker
    if obtained is None:
        raise ApiError("this server has no reward server; start it with --reward-url", status=404)
    schema = await obtained.schema()

    async def one(index: int, messages: list[ChatMessage]) -> list[float]:
        *history, last = messages or [ChatMessage(role="none")]
        if last.role != "assistant" or not history:
            raise ApiError(f"chats[{index}] must end with an assistant message", param=f"chats[{index}]")
        (values,) = await obtained.scores(history, [last.text(f"chats[{index}][{len(history)}]")], over_long="keep_end")
        return [values[name] for name in schema.active]

    rows = await asyncio.gather(*(one(index, messages) for index, messages in enumerate(body.chats)))
    return ObtainedResponse(attributes=list(schema.active), low=schema.low, high=schema.high, scores=rows)
