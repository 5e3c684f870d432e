# SPDX-License-Identifier: Apache-2.0
"""`POST /v1/chat/completions`: the answer to a conversation with the dials set, whole or streamed.

Dials come in `chat_template_kwargs.attributes` (what stock engines take too) or as a top-level `attributes`; the
`steerlm` field of the reply says which vector was used. What is shared with `/v1/completions` is in `asking.py` and
`openai_reply.py`. Wire format: serving facts 6.
"""

import asyncio
import difflib
from typing import Any, Literal, Self

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator

from steerlm.inference.engine.request import Piece
from steerlm.serving.chat_prompt import Message, build_prompt
from steerlm.serving.disconnect import while_connected
from steerlm.serving.errors import ApiError
from steerlm.serving.generation import GenerationService, reseeded
from steerlm.serving.openai.protocol import MOST_LOGPROBS, Asking
from steerlm.serving.openai.response import Choice, Reply, chat_logprobs

router = APIRouter(tags=["openai"])


class TextPart(BaseModel):
    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """`label`: an assistant message's own dials, as `quality:4,humor:0` or as a mapping."""

    role: str
    content: str | list[TextPart]
    label: str | dict[str, Any] | None = None

    def plain(self) -> Message:
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message(self.role, content, self.label)


class TemplateArguments(BaseModel):
    model_config = ConfigDict(extra="allow")

    attributes: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _no_misspelt_dials(self) -> Self:
        """Other templates' arguments are ignored, as elsewhere; dials that would be lost are not."""
        for name in self.model_extra or {}:
            if difflib.get_close_matches(name, ["attributes"], cutoff=0.75):
                raise ValueError(f"unknown key {name!r}; did you mean 'attributes'?")
        return self


class ChatRequest(Asking):
    """Beside OpenAI's fields: the dials."""

    messages: list[ChatMessage]
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)
    attributes: dict[str, Any] | None = None
    chat_template_kwargs: TemplateArguments | None = None

    def asked(self) -> dict[str, Any]:
        """The dials that were named, wherever they stand."""
        inner = self.chat_template_kwargs.attributes if self.chat_template_kwargs else None
        if inner is not None and self.attributes is not None and inner != self.attributes:
            raise ApiError("attributes and chat_template_kwargs.attributes differ; give one", param="attributes")
        return (self.attributes if inner is None else inner) or {}

    def told(self) -> int | None:
        """How many likeliest tokens to tell beside each; None: no log-probabilities."""
        if self.top_logprobs and not self.logprobs:
            raise ApiError("top_logprobs needs logprobs: true", param="top_logprobs")
        return (self.top_logprobs or 0) if self.logprobs else None


@router.post("/v1/chat/completions", summary="The answer to a conversation, with the dials set")
async def chat(request: Request, body: ChatRequest) -> Any:
    service: GenerationService = request.app.state.service
    body.check(service.name)
    request.state.place.take(body.n or 1)
    prompt = build_prompt(
        [message.plain() for message in body.messages],
        body.asked(),
        service.schema,
        strip_markers=service.settings.strip_markers,
    )
    ids = await asyncio.to_thread(service.engine.encode, prompt.text)
    limit = body.max_completion_tokens or body.max_tokens or max(1, service.room(ids))
    sampling = body.sampling(limit, body.told())
    service.check(ids, limit, prompt_param="messages", tokens_param="max_tokens")
    more = {"steerlm": {"attributes": prompt.attributes}}
    reply = Reply(service.name, "chatcmpl", ("chat.completion", "chat.completion.chunk"), len(ids), more)
    samplings = reseeded(sampling, body.n or 1)
    prompts = [ids] * len(samplings)

    def delta(index: int, delta: dict[str, str], logprobs: Any = None, finish: str | None = None) -> Choice:
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}

    def pieces(index: int, piece: Piece) -> list[Choice]:
        logprobs = None if piece.log is None else chat_logprobs([piece.log], service.engine)
        content = [delta(index, {"content": piece.text}, logprobs)] if piece.text or logprobs else []
        return content if piece.finish is None else [*content, delta(index, {}, finish=piece.finish)]

    if body.stream:
        opening = [delta(index, {"role": "assistant", "content": ""}) for index in range(len(samplings))]
        events = reply.events(opening, service.interleaved(prompts, samplings), pieces, body.include_usage)
        return StreamingResponse(events, media_type="text/event-stream")
    answers = await while_connected(request, service.several(prompts, samplings))
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": answer.text},
            "logprobs": None if sampling.logprobs is None else chat_logprobs(answer.logs, service.engine),
            "finish_reason": answer.finish,
        }
        for index, answer in enumerate(answers)
    ]
    return reply.whole(choices, sum(len(answer.tokens) for answer in answers))
