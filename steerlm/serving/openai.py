"""The OpenAI surface of a policy: `POST /v1/chat/completions`, whole or streamed (server-sent events).

Dials come in `chat_template_kwargs.attributes` (what stock engines take too) or as a top-level `attributes`; the
`steerlm` field of the reply says which vector was used. Unknown fields are ignored, as by other servers; fields that
would change the answer and are not offered are refused. Wire format: serving facts 6.
"""

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from steerlm.errors import InputError, nearest
from steerlm.serving.generation import GenerationService, reseeded
from steerlm.serving.job import Piece
from steerlm.serving.prompts import Message, Prompt, build_prompt, stops
from steerlm.serving.replies import ApiError, error_event
from steerlm.serving.sampling import Sampling

router = APIRouter(tags=["openai"])

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "tools": (None, []),
    "functions": (None, []),
    "response_format": (None, {"type": "text"}),
    "logit_bias": (None, {}),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "chat_template": (None,),
    "best_of": (None, 1),
}
"""Fields that are not offered, with the values that ask for nothing."""


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


class StreamOptions(BaseModel):
    include_usage: bool = False


class ChatRequest(BaseModel):
    """Beside OpenAI's fields: the dials, and `top_k`, `min_tokens`, `repetition_penalty` as other servers have them."""

    model_config = ConfigDict(extra="allow")

    messages: list[ChatMessage]
    model: str | None = None
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    min_tokens: int | None = Field(None, ge=0)
    repetition_penalty: float | None = Field(None, ge=0.1, le=10)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    stop: str | list[str] | None = None
    seed: int | None = None
    n: int | None = Field(None, ge=1, le=128)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    attributes: dict[str, Any] | None = None
    chat_template_kwargs: TemplateArguments | None = None

    def asked(self) -> dict[str, Any]:
        """The dials that were named, wherever they stand."""
        inner = self.chat_template_kwargs.attributes if self.chat_template_kwargs else None
        if inner is not None and self.attributes is not None and inner != self.attributes:
            raise ApiError("attributes and chat_template_kwargs.attributes differ; give one", param="attributes")
        return (self.attributes if inner is None else inner) or {}

    def sampling(self, room: int) -> Sampling:
        """`room`: tokens that fit behind the prompt, the default of `max_tokens`."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        limit = self.max_completion_tokens or self.max_tokens
        return Sampling(
            max_tokens=limit if limit is not None else max(1, room),
            temperature=1.0 if self.temperature is None else self.temperature,
            top_k=max(0, self.top_k or 0),
            top_p=1.0 if self.top_p is None else self.top_p,
            repetition_penalty=1.0 if self.repetition_penalty is None else self.repetition_penalty,
            min_tokens=self.min_tokens or 0,
            seed=self.seed,
            stop=stops(stop),
        )


@router.post("/v1/chat/completions", summary="The answer to a conversation, with the dials set")
async def chat(request: Request, body: ChatRequest) -> Any:
    service: GenerationService = request.app.state.service
    if body.model is not None and body.model != service.name:
        raise ApiError(f"no model {body.model!r} here{nearest(body.model, [service.name])}", param="model", status=404)
    for name, value in (body.model_extra or {}).items():
        if name in NEUTRAL and value not in NEUTRAL[name]:
            raise ApiError(f"{name} is not offered by this server; leave it out", param=name)
    if body.stop and not all(body.stop):
        raise ApiError("a stop string is empty", param="stop")
    prompt = build_prompt(
        [message.plain() for message in body.messages],
        body.asked(),
        service.schema,
        strip_markers=service.settings.strip_markers,
    )
    ids = await asyncio.to_thread(service.engine.encode, prompt.text)
    sampling = body.sampling(service.engine.window - len(ids))
    try:
        service.engine.check_length(ids, sampling.max_tokens)
    except InputError as error:
        raise ApiError(str(error), param="max_tokens" if len(ids) < service.engine.window else "messages") from None
    reply = Reply(service.name, prompt, len(ids))
    samplings = reseeded(sampling, body.n or 1)
    if body.stream:
        usage = body.stream_options is not None and body.stream_options.include_usage
        events = reply.events(service.interleaved(ids, samplings), len(samplings), usage)
        return StreamingResponse(events, media_type="text/event-stream")
    answers = await service.several([ids] * len(samplings), samplings)
    choices = [
        {
            "index": i,
            "message": {"role": "assistant", "content": answer.text},
            "logprobs": None,
            "finish_reason": answer.finish,
        }
        for i, answer in enumerate(answers)
    ]
    return reply.whole(choices, sum(len(answer.tokens) for answer in answers))


class Reply:
    """The JSON of one request's reply, whole or in chunks."""

    def __init__(self, model: str, prompt: Prompt, prompt_tokens: int) -> None:
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._steerlm = {"attributes": prompt.attributes}
        self._prompt_tokens = prompt_tokens

    def _usage(self, tokens: int) -> dict[str, int]:
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": self._prompt_tokens + tokens,
        }

    def whole(self, choices: list[dict[str, Any]], tokens: int) -> dict[str, Any]:
        return {
            **self._head,
            "object": "chat.completion",
            "choices": choices,
            "usage": self._usage(tokens),
            "steerlm": self._steerlm,
        }

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> str:
        chunk = {**self._head, "object": "chat.completion.chunk", "choices": choices, **more}
        return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"

    def _delta(self, index: int, delta: dict[str, str], finish: str | None = None, **more: Any) -> str:
        return self._event([{"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}], **more)

    async def events(
        self, pieces: AsyncGenerator[tuple[int, Piece], None], n: int, include_usage: bool
    ) -> AsyncIterator[str]:
        """Server-sent events: each answer's role first (with the `steerlm` field), its text, its finish reason."""
        for index in range(n):
            yield self._delta(index, {"role": "assistant", "content": ""}, steerlm=self._steerlm)
        tokens = 0
        try:
            async with contextlib.aclosing(pieces):
                async for index, piece in pieces:
                    tokens += piece.token is not None
                    if piece.text:
                        yield self._delta(index, {"content": piece.text})
                    if piece.finish is not None:
                        yield self._delta(index, {}, piece.finish)
        except Exception as error:
            yield error_event(error)
            return
        if include_usage:
            yield self._event([], usage=self._usage(tokens))
        yield "data: [DONE]\n\n"
