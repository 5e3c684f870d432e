# SPDX-License-Identifier: Apache-2.0
"""`POST /v1/chat/completions`: the answer to a conversation with the attributes set, whole or streamed.

Attributes are in `chat_template_kwargs.attributes`, which stock engines accept too, where they mean the same
(`dials.py`), or in a preset that `model` names. Of several answers the best can be chosen (`ranking.py`). The `steerlm`
field of the response has the values used. Wire format: docs/upstream.md#openai-wire-format.
"""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from pydantic import Field, WithJsonSchema

from steerlm.inference.engine.detokenizer import Vocabulary
from steerlm.inference.engine.request import GenerationChunk
from steerlm.inference.engine.sampling_state import TokenLogprobs
from steerlm.serving.admission import cancel_on_disconnect
from steerlm.serving.chat_prompt import build_prompt
from steerlm.serving.dials import chat_place, requested_dials
from steerlm.serving.errors import UNKNOWN, ApiError
from steerlm.serving.generation import GenerationService
from steerlm.serving.messages import ChatMessage
from steerlm.serving.openai.protocol import MAX_ANSWERS, MAX_LOGPROBS, GenerationBody
from steerlm.serving.openai.response import ResponseChoice, ResponseWriter, begun, chat_logprobs
from steerlm.serving.openai.response_format import schema_of
from steerlm.serving.request_record import current

router = APIRouter(tags=["openai"])

DIALS = WithJsonSchema({"type": ["object", "null"], "additionalProperties": {"type": "integer"}})

_WEIGHTS = {"type": "object", "additionalProperties": {"type": "number"}}
RANKING = WithJsonSchema({"anyOf": [{"type": "string"}, _WEIGHTS, {"type": "null"}]})


class ChatRequest(GenerationBody):
    """The request body: OpenAI's fields and the attributes.

    `best_of`: how many answers to generate, of which the best `n` are returned. `rank_by`: which are the best: those
    with the highest score of an attribute, or the highest sum of scores with these weights.
    """

    messages: list[ChatMessage]
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    attributes: Annotated[Any, DIALS] = None
    best_of: int | None = Field(None, ge=1, le=MAX_ANSWERS)
    rank_by: Annotated[Any, RANKING] = None
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

    def candidates(self) -> int | None:
        """Return how many answers to generate and rank; None if answers are not ranked.

        Raises:
            ApiError: The fields do not fit together.
        """
        n = self.answers_per_prompt
        if self.rank_by is None:
            if self.best_of not in (None, n):
                raise ApiError('best_of needs rank_by: an attribute such as "quality", or weights', param="rank_by")
            return None
        if self.stream:
            raise ApiError("ranked answers cannot be streamed: they are compared when all are complete", param="stream")
        if self.best_of is not None and self.best_of < n:
            raise ApiError(f"best_of is {self.best_of}, fewer than the {n} answers of n", param="best_of")
        return self.best_of or n


@router.post("/v1/chat/completions", summary="The answer to a conversation, with the attributes set", responses=UNKNOWN)
async def chat(request: Request, body: ChatRequest) -> Any:
    """Generate the answer to a conversation."""
    service: GenerationService = request.app.state.service
    body.check(service, chat_place(service.schema))
    n = body.candidates() or body.answers_per_prompt
    request.state.slot.acquire(n)
    weights = await _weights(service, body.rank_by)
    strip = service.settings.strip_markers
    dials = requested_dials(body.attributes, body.chat_template_kwargs, service.schema)
    preset = body.preset(service)
    dials = {**(preset.attributes if preset else {}), **dials}
    prompt = build_prompt(body.messages, dials, service.schema, strip_markers=strip)
    current().asked({name: prompt.attributes[name] for name in dials})
    params = body.sampling_params(body.token_limit(), body.logprob_count())
    schema = schema_of(body.response_format)
    submission = await service.submit(
        [prompt.text], params, n, stream=bool(body.stream), names=["messages"], schema=schema
    )

    extra: dict[str, Any] = {"attributes": prompt.attributes}
    objects = ("chat.completion", "chat.completion.chunk")
    model = body.model or service.name
    writer = ResponseWriter(model, "chatcmpl", objects, len(submission.prompts[0]), {"steerlm": extra})
    vocabulary = service.engine.vocabulary
    if body.stream:
        opening = [_delta(index, {"role": "assistant", "content": ""}) for index in range(n)]
        chunks = await begun(request, submission.chunks())
        events = writer.events(
            opening, chunks, lambda i, chunk: _chunk_choices(i, chunk, vocabulary), body.include_usage
        )
        return StreamingResponse(events, media_type="text/event-stream")
    answers = await cancel_on_disconnect(request, submission.completions())
    shown = answers
    if weights is not None and service.ranker:
        texts = [answer.text for answer in answers]
        ranked = await cancel_on_disconnect(request, service.ranker.rank(body.messages, texts, weights))
        extra["candidates"] = [
            {"index": place if place < body.answers_per_prompt else None, "scores": one.scores, "value": one.value}
            for place, one in enumerate(ranked)
        ]
        shown = [answers[one.index] for one in ranked[: body.answers_per_prompt]]
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": answer.text},
            "logprobs": _logprobs(answer.logprobs, vocabulary),
            "finish_reason": answer.finish_reason,
        }
        for index, answer in enumerate(shown)
    ]
    return writer.whole(choices, answers)


async def _weights(service: GenerationService, rank_by: Any) -> dict[str, float] | None:
    if rank_by is None:
        return None
    if service.ranker is None:
        raise ApiError("rank_by: this server has no reward server to ask (--reward-url)", param="rank_by")
    return await service.ranker.weights(rank_by)


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
