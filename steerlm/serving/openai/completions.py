# SPDX-License-Identifier: Apache-2.0
"""`POST /v1/completions`: continuations of prompts as they are, text or token ids, whole or streamed.

No template and no dials: who calls it writes the exact prompt (`docs/serving.md`). As everywhere, the mark of the next
turn ends an answer. Wire format: OpenAI's legacy completions, serving facts 6.
"""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from pydantic import Field

from steerlm.inference.engine.request import Completion, Piece
from steerlm.inference.engine.sampling import TokenLog
from steerlm.serving.disconnect import while_connected
from steerlm.serving.errors import ApiError
from steerlm.serving.generation import GenerationService, reseeded
from steerlm.serving.openai.protocol import MAX_ANSWERS, MOST_LOGPROBS, Asking
from steerlm.serving.openai.response import Choice, Reply, completion_logprobs

router = APIRouter(tags=["openai"])

TokenId = Annotated[int, Field(ge=0, strict=True)]


class CompletionRequest(Asking):
    """`prompt`: a text, texts, token ids, or lists of token ids; `n` answers to each, prompt by prompt.

    `logprobs`: how many of the likeliest tokens to tell beside each. `echo`: the prompt before the answer, and with
    `logprobs` its tokens' too.
    """

    prompt: str | list[str] | list[TokenId] | list[list[TokenId]]
    logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)
    echo: bool | None = False

    def prompts(self) -> list[str | list[int]]:
        prompt = self.prompt
        if isinstance(prompt, str):
            return [prompt]
        if prompt and isinstance(prompt[0], int):
            return [[i for i in prompt if isinstance(i, int)]]
        return [p for p in prompt if not isinstance(p, int)]


@router.post("/v1/completions", summary="Continuations of prompts as they are")
async def completions(request: Request, body: CompletionRequest) -> Any:
    service: GenerationService = request.app.state.service
    body.check(service.name)
    given, n = body.prompts(), body.n or 1
    if not 0 < len(given) * n <= MAX_ANSWERS:
        raise ApiError(f"{len(given)} prompts with {n} answers each; 1 to {MAX_ANSWERS} answers are given", param="n")
    request.state.place.take(len(given) * n)
    prompts = await asyncio.to_thread(lambda: [_ids(service, i, prompt) for i, prompt in enumerate(given)])
    sampling = body.sampling(body.max_tokens or 16, body.logprobs)
    for index, ids in enumerate(prompts):
        name = "prompt" if len(prompts) == 1 else f"prompt[{index}]"
        service.check(ids, sampling.max_tokens, prompt_param=name, tokens_param="max_tokens")
    reply = Reply(service.name, "cmpl", ("text_completion", "text_completion"), sum(map(len, prompts)), {})
    echoes = [Echo.of(body, service, prompt, ids) for prompt, ids in zip(given, prompts, strict=True)]
    if body.echo and body.logprobs is not None:
        for echo in echoes:
            await asyncio.to_thread(echo.read, service, body.logprobs)
    rows = [ids for ids in prompts for _ in range(n)]
    samplings = reseeded(sampling, len(rows))
    if body.stream:
        writer = Writer(service, [echo for echo in echoes for _ in range(n)])
        opening = writer.opening() if body.echo else []
        events = reply.events(opening, service.interleaved(rows, samplings), writer.choices, body.include_usage)
        return StreamingResponse(events, media_type="text/event-stream")
    answers = await while_connected(request, service.several(rows, samplings))
    choices = [echoes[index // n].choice(service, index, answer) for index, answer in enumerate(answers)]
    return reply.whole(choices, sum(len(answer.tokens) for answer in answers))


def _ids(service: GenerationService, index: int, prompt: str | list[int]) -> list[int]:
    if isinstance(prompt, str):
        return service.engine.encode(prompt)
    size = service.engine.vocabulary_size
    for token in prompt:
        if token >= size:
            raise ApiError(f"prompt {index} has the token id {token}; the vocabulary has {size}", param="prompt")
    return prompt


class Echo:
    """What stands before the answers to one prompt: nothing, or the prompt's text and its tokens."""

    def __init__(self, text: str, logs: list[TokenLog | int], ids: list[int]) -> None:
        self.text, self.logs, self._ids = text, logs, ids

    @classmethod
    def of(cls, body: CompletionRequest, service: GenerationService, prompt: str | list[int], ids: list[int]) -> "Echo":
        if not body.echo:
            return cls("", [], ids)
        return cls(prompt if isinstance(prompt, str) else service.engine.decode(ids), [], ids)

    def read(self, service: GenerationService, top: int) -> None:
        """One forward pass over the prompt, for its tokens' log-probabilities."""
        self.logs = [self._ids[0], *service.engine.logs(self._ids, top)]

    def choice(self, service: GenerationService, index: int, answer: Completion) -> Choice:
        logs = [*self.logs, *answer.logs]
        return {
            "index": index,
            "text": self.text + answer.text,
            "logprobs": completion_logprobs(logs, service.engine) if logs else None,
            "finish_reason": answer.finish,
        }


class Writer:
    """The choices of a stream; keeps where each answer's text offsets stand."""

    def __init__(self, service: GenerationService, echoes: list[Echo]) -> None:
        self._engine, self._echoes = service.engine, echoes
        self._at = [0] * len(echoes)

    def opening(self) -> list[Choice]:
        return [self._choice(index, echo.text, echo.logs, None) for index, echo in enumerate(self._echoes)]

    def choices(self, index: int, piece: Piece) -> list[Choice]:
        if not piece.text and piece.log is None and piece.finish is None:
            return []
        return [self._choice(index, piece.text, [] if piece.log is None else [piece.log], piece.finish)]

    def _choice(self, index: int, text: str, logs: list[TokenLog | int] | list[TokenLog], finish: str | None) -> Choice:
        logprobs = None
        if logs:
            logprobs = completion_logprobs(logs, self._engine, self._at[index])
            self._at[index] += sum(map(len, logprobs["tokens"]))
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}
