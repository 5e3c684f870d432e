# SPDX-License-Identifier: Apache-2.0
"""`POST /v1/studio/scores`: what answers obtained by the reward server, to be compared with what was asked."""

from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from steerlm.prompt import ASSISTANT, render_readout
from steerlm.serving.errors import ApiError
from steerlm.serving.generation import GenerationService
from steerlm.serving.messages import ChatMessage
from steerlm.serving.score_inputs import has_system, readout_of_messages

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


@router.post("/v1/studio/scores", summary="What answers obtained: scores by the server's reward server")
async def scores(request: Request, body: ObtainedRequest) -> ObtainedResponse:
    """Score the last message of each chat."""
    service: GenerationService = request.app.state.service
    if service.ranker is None:
        raise ApiError("this server has no reward server; start it with --reward-url", status=404)
    strip = service.settings.strip_markers
    texts = []
    for index, messages in enumerate(body.chats):
        chat = readout_of_messages(messages, strip=strip)
        last = len(chat.conversations) - 1
        if chat.conversations[last].speaker != ASSISTANT:
            raise ApiError(f"chats[{index}] must end with an assistant message", param=f"chats[{index}]")
        texts.append(render_readout(chat, last, use_system=has_system(chat)))
    schema = await service.ranker.schema()
    values = [list(row.values()) for row in await service.ranker.score_texts(texts, over_long="keep_end")]
    return ObtainedResponse(attributes=list(schema.names), low=schema.low, high=schema.high, scores=values)
