# SPDX-License-Identifier: Apache-2.0
"""`POST /v1/chat/completions`: the answer to a conversation with the attributes set, whole or streamed.

Attributes are in `chat_template_kwargs.attributes`, which stock engines accept too, or where they mean the same
(`dials.py`); the `steerlm` field of the response has the values used. Wire format: docs/upstream.md#openai-wire-format.
"""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from pydantic import Field, WithJsonSchema

from steerlm.inference.engine.detokenizer import Vocabulary
from steerlm.inference.engine.request import GenerationChunk
from steerlm.inference.engine.sampling import TokenLogprobs
from steerlm.serving.admission import cancel_on_disconnect
from steerlm.serving.chat_prompt import build_prompt
from steerlm.serving.dials import chat_place, requested_dials
from steerlm.serving.errors import ApiError
from steerlm.serving.generation import GenerationService
from steerlm.serving.messages import ChatMessage
from steerlm.serving.openai.protocol import MAX_LOGPROBS, GenerationBody
from steerlm.serving.openai.response import ResponseChoice, ResponseWriter, chat_logprobs
from steerlm.serving.openai.response_format import schema_of
from steerlm.serving.request_record import current

router = APIRouter(tags=["openai"])

DIALS = WithJsonSchema({"type": ["object", "null"], "additionalProperties": {"type": "integer"}})


class ChatRequest(GenerationBody):
    """The request body: OpenAI's fields and the attributes."""

    messages: list[ChatMessage]
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    attributes: Annotated[Any, DIALS] = None
    chat_template_kwargs: dict[str, Any] | None = None

    def token_limit(self) -> int | None:
        """Return the largest number of tokens of an answer."""
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise ApiError("max_tokens and max_completion_tokens differ; give one", param="max_tokens")
        return self.max_completion_tokens or self.max_tokens

    def logprob_count(self) -> int | None:
        """Return how many most likely tokens to report with each token; None for no log-probabilities."""
        if self.top_logprobs and not self.logprobs:
            raise ApiError("top_logprobs needs logprobs: true", param="top_logprobs")
        return (self.top_logprobs or 0) if self.logprobs else None


@router.post("/v1/chat/completions", summary="The answer to a conversation, with the attributes set")
async def chat(request: Request, body: ChatRequest) -> Any:
    """Generate the answer to a conversation."""
    service: GenerationService = request.app.state.service
    body.check(service, chat_place(service.schema))
    n = body.answers_per_prompt
    request.state.slot.acquire(n)
    strip = service.settings.strip_markers
    dials = requested_dials(body.attributes, body.chat_template_kwargs, service.schema)
    prompt = build_prompt(body.messages, dials, service.schema, strip_markers=strip)
    current().asked({name: prompt.attributes[name] for name in dials})
    params = body.sampling_params(body.token_limit(), body.logprob_count())
    schema = schema_of(body.response_format)
    submission = await service.submit(
        [prompt.text], params, n, stream=bool(body.stream), names=["messages"], schema=schema
    )

    extra = {"steerlm": {"attributes": prompt.attributes}}
    objects = ("chat.completion", "chat.completion.chunk")
    writer = ResponseWriter(service.name, "chatcmpl", objects, len(submission.prompts[0]), extra)
    vocabulary = service.engine.vocabulary
    if body.stream:
        opening = [_delta(index, {"role": "assistant", "content": ""}) for index in range(n)]
        events = writer.events(
            opening, submission.chunks(), lambda i, chunk: _chunk_choices(i, chunk, vocabulary), body.include_usage
        )
        return StreamingResponse(events, media_type="text/event-stream")
    answers = await cancel_on_disconnect(request, submission.completions())
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": answer.text},
            "logprobs": _logprobs(answer.logprobs, vocabulary),
            "finish_reason": answer.finish_reason,
        }
        for index, answer in enumerate(answers)
    ]
    return writer.whole(choices, answers)


def _chunk_choices(index: int, chunk: GenerationChunk, vocabulary: Vocabulary) -> list[ResponseChoice]:
    choices = []
    if chunk.text or chunk.logprobs:
        logprobs = _logprobs([chunk.logprobs] if chunk.logprobs else [], vocabulary)
        choices.append(_delta(index, {"content": chunk.text}, logprobs))
    if chunk.finish_reason is not None:
        choices.append(_delta(index, {}, finish_reason=chunk.finish_reason))
    return choices


def _delta(
    index: int, delta: dict[str, str], logprobs: dict[str, Any] | None = None, finish_reason: str | None = None
) -> ResponseChoice:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}


def _logprobs(logprobs: Sequence[TokenLogprobs], vocabulary: Vocabulary) -> dict[str, Any] | None:
    return chat_logprobs(logprobs, vocabulary) if logprobs else None
