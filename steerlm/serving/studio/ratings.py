# SPDX-License-Identifier: Apache-2.0
"""`POST /v1/studio/ratings` and `/v1/studio/preferences`: a person's word about answers, kept as records."""

import asyncio
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from steerlm.attributes import AttributeSchema
from steerlm.datasets.ratings import RatedConversation, RatingNote, rated_conversation
from steerlm.datasets.sources.helpsteer2 import STRONGEST
from steerlm.errors import LabelError
from steerlm.prompt import SYSTEM_PROMPT, USER
from steerlm.records import Turn
from steerlm.serving.chat_prompt import resolve_attributes, without_marks
from steerlm.serving.errors import UNKNOWN, ApiError
from steerlm.serving.messages import ChatMessage
from steerlm.serving.request_record import current
from steerlm.serving.score_inputs import has_system, readout_of_messages
from steerlm.serving.studio.parts import parts_of

router = APIRouter(tags=["studio"])

Values = dict[str, int]
Person = Annotated[str, Field(min_length=1, max_length=200, pattern=r"\S")]


class GivenAnswer(BaseModel):
    """An answer, and the attributes that it was asked with; those left out had their defaults."""

    model_config = ConfigDict(extra="forbid")

    text: Annotated[str, Field(pattern=r"\S")]
    asked: Values = Field(default_factory=dict)


class RatingRequest(BaseModel):
    """`messages` end with the question; `labels` are the person's values, of one attribute or more.

    `by` may be left out where the server asks for an API key, whose name is kept.
    """

    model_config = ConfigDict(extra="forbid")

    by: Person | None = None
    messages: list[ChatMessage]
    answer: GivenAnswer
    labels: Annotated[Values, Field(min_length=1)]


class PreferenceRequest(BaseModel):
    """Two answers to one question; `strength` is -3..3, negative if the first is better. `by`: as of a rating."""

    model_config = ConfigDict(extra="forbid")

    by: Person | None = None
    messages: list[ChatMessage]
    answers: Annotated[list[GivenAnswer], Field(min_length=2, max_length=2)]
    strength: Annotated[int, Field(ge=-STRONGEST, le=STRONGEST)]


class KeptRating(BaseModel):
    """The record's id and time."""

    id: str
    at: str


@router.post("/v1/studio/ratings", summary="Keep a person's values for an answer", status_code=201, responses=UNKNOWN)
async def rate(request: Request, body: RatingRequest) -> KeptRating:
    """Keep a rating."""
    schema = _schema(request)
    try:
        schema.check(body.labels)
    except LabelError as error:
        raise ApiError(f"labels: {error}", param="labels") from None
    labels = {name: body.labels[name] for name in schema.names if name in body.labels}
    return await _keep(request, body.by, body.messages, [body.answer], schema, labels=labels)


@router.post(
    "/v1/studio/preferences",
    summary="Keep which of two answers a person finds better",
    status_code=201,
    responses=UNKNOWN,
)
async def prefer(request: Request, body: PreferenceRequest) -> KeptRating:
    """Keep a preference."""
    schema = _schema(request)
    if body.answers[0].text == body.answers[1].text:
        raise ApiError("the two answers are equal; there is nothing to prefer", param="answers")
    return await _keep(request, body.by, body.messages, body.answers, schema, strength=body.strength)


def _schema(request: Request) -> AttributeSchema:
    if parts_of(request).ratings is None:
        raise ApiError("this server keeps no ratings; start it with --ratings", status=404)
    schema: AttributeSchema | None = request.app.state.service.schema
    if schema is None:
        raise ApiError("a base model has no attributes to rate")
    return schema


async def _keep(
    request: Request,
    by: str | None,
    messages: list[ChatMessage],
    answers: list[GivenAnswer],
    schema: AttributeSchema,
    *,
    labels: Mapping[str, int] | None = None,
    strength: int | None = None,
) -> KeptRating:
    service, folder = request.app.state.service, parts_of(request).ratings
    assert folder is not None
    system, history = _question(messages, strip=service.settings.strip_markers)
    at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    note: dict[str, Any] = {"id": uuid.uuid4().hex, **_person(by), "at": at, "model": service.name}
    note |= {"kind": "rating"} if strength is None else {"kind": "preference", "strength": strength}
    records: list[RatedConversation] = []
    for index, answer in enumerate(answers):
        where = "answer.text" if labels else f"answers[{index}].text"
        text = without_marks(answer.text, where, strip=service.settings.strip_markers)
        asked = resolve_attributes(schema, answer.asked)
        records.append(rated_conversation(system, history, text, labels or {}, RatingNote(**note, asked=asked)))
    await asyncio.to_thread(folder.append, records)
    return KeptRating(id=note["id"], at=at)


def _person(by: str | None) -> dict[str, str]:
    """Return who rates: the typed name and the name of the request's key, as far as there are."""
    given = {"by": (by or "").strip(), "key": current().key}
    if not any(given.values()):
        raise ApiError("by: the name of who rates was expected, since this server asks for no API key", param="by")
    return {name: text for name, text in given.items() if text}


def _question(messages: list[ChatMessage], *, strip: bool) -> tuple[str, list[Turn]]:
    chat = readout_of_messages(messages, strip=strip)
    if chat.conversations[-1].speaker != USER:
        raise ApiError("messages must end with the user's question; the answer is a field of its own", param="messages")
    return chat.system if has_system(chat) else SYSTEM_PROMPT, chat.conversations
