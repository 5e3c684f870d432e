# SPDX-License-Identifier: Apache-2.0
"""`POST /v1/completions`: continuations of prompts as they are, text or token ids, whole or streamed.

There is no template and there are no attributes: the caller writes the exact prompt (docs/serving.md). As on all
routes, the mark of the next turn ends an answer. Wire format: docs/upstream.md#openai-wire-format.
"""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from pydantic import Field, WithJsonSchema

from steerlm.inference.engine.detokenizer import Vocabulary
from steerlm.inference.engine.request import Completion, GenerationChunk
from steerlm.inference.engine.sampling_state import TokenLogprobs
from steerlm.serving.admission import cancel_on_disconnect
from steerlm.serving.dials import RAW_PLACE
from steerlm.serving.errors import UNKNOWN, ApiError
from steerlm.serving.generation import GenerationService
from steerlm.serving.openai.protocol import MAX_ANSWERS, MAX_LOGPROBS, GenerationBody
from steerlm.serving.openai.response import ResponseChoice, ResponseWriter, begun, completion_logprobs
from steerlm.serving.openai.response_format import schema_of
from steerlm.serving.prompts import PROMPTS_SCHEMA, Prompt, read_prompts

router = APIRouter(tags=["openai"])


class CompletionRequest(GenerationBody):
    """The request body.

    `prompt`: a text, texts, token ids, or lists of token ids; each gets `n` answers. `logprobs`: how many of the most
    likely tokens to report with each token. `echo`: put the prompt before the answer, and its tokens before those of
    `logprobs`. `return_token_ids`: report the ids of the prompt and of the answer. `return_tokens_as_token_ids`: name
    the tokens of `logprobs` by their ids, as `token_id:5`. Both as in vLLM.
    """

    prompt: Annotated[Any, WithJsonSchema(PROMPTS_SCHEMA)]
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    echo: bool | None = False
    return_token_ids: bool | None = False
    return_tokens_as_token_ids: bool | None = False


@router.post("/v1/completions", summary="Continuations of prompts as they are", responses=UNKNOWN)
async def completions(request: Request, body: CompletionRequest) -> Any:
    """Continue prompts."""
    service: GenerationService = request.app.state.service
    body.check(service, RAW_PLACE)
    if body.preset(service):
        raise ApiError(f"model {body.model!r}: a preset sets the dials of a chat; {RAW_PLACE}", param="model")
    (prompts, names), n = read_prompts(body.prompt, "prompt"), body.answers_per_prompt
    if not 0 < len(prompts) * n <= MAX_ANSWERS:
        raise ApiError(
            f"{len(prompts)} prompts with {n} answers each; 1 to {MAX_ANSWERS} answers per request are allowed",
            param="n",
        )
    request.state.slot.acquire(len(prompts) * n)
    params = body.sampling_params(body.max_tokens or 16, body.logprobs)
    schema = schema_of(body.response_format)
    submission = await service.submit(prompts, params, n, stream=bool(body.stream), names=names, schema=schema)

    prompt_tokens = sum(map(len, submission.prompts))
    writer = ResponseWriter(service.name, "cmpl", ("text_completion", "text_completion"), prompt_tokens, {})
    echoes = [Echo() for _ in prompts]
    if body.echo:
        pairs = zip(prompts, submission.prompts, strict=True)
        echoes = [await Echo.create(service, *pair, body.logprobs) for pair in pairs]
    formatter = ChoiceFormatter(
        service.engine.vocabulary,
        [echo for echo in echoes for _ in range(n)],
        submission.prompts if body.return_token_ids else None,
        token_names=bool(body.return_tokens_as_token_ids),
    )
    if body.stream:
        opening = formatter.echoes() if body.echo else []
        chunks = await begun(request, submission.chunks())
        events = writer.events(opening, chunks, formatter.chunk, body.include_usage)
        return StreamingResponse(events, media_type="text/event-stream")
    answers = await cancel_on_disconnect(request, submission.completions())
    return writer.whole([formatter.answer(index, answer) for index, answer in enumerate(answers)], answers)


class Echo:
    """What precedes the answers to a prompt: nothing, or its text and the log-probabilities of its tokens."""

    def __init__(self, text: str = "", logprobs: Sequence[TokenLogprobs | int] = ()) -> None:
        self.text, self.logprobs = text, logprobs

    @classmethod
    async def create(cls, service: GenerationService, prompt: Prompt, ids: list[int], top: int | None) -> "Echo":
        """Return the echo of a prompt; log-probabilities (`top` is not None) take a forward pass."""
        text = prompt if isinstance(prompt, str) else service.engine.vocabulary.decode(ids)
        return cls(text, [] if top is None else [ids[0], *await service.engine.logprobs(ids, top)])


class ChoiceFormatter:
    """Formats the choices of a response; in a stream it keeps the text offset of each answer."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        echoes: list[Echo],
        prompts: list[list[int]] | None = None,
        *,
        token_names: bool = False,
    ) -> None:
        """Start a response.

        Args:
            vocabulary: Decodes tokens.
            echoes: The echo of each answer.
            prompts: Token ids of each prompt, to report them and those of the answers; None: report none.
            token_names: Name the tokens of log-probabilities by their ids.
        """
        self._vocabulary, self._echoes, self._prompts, self._token_names = vocabulary, echoes, prompts, token_names
        self._offsets = [0] * len(echoes)
        self._begun: set[int] = set()

    def answer(self, index: int, answer: Completion) -> ResponseChoice:
        """Return the choice of a whole answer."""
        echo = self._echoes[index]
        logprobs = [*echo.logprobs, *answer.logprobs]
        return self._choice(index, echo.text + answer.text, logprobs, answer.finish_reason, answer.tokens)

    def echoes(self) -> list[ResponseChoice]:
        """Return the choices that open a stream."""
        return [self._choice(index, echo.text, echo.logprobs, None, []) for index, echo in enumerate(self._echoes)]

    def chunk(self, index: int, chunk: GenerationChunk) -> list[ResponseChoice]:
        """Return the choices of a chunk; none if it adds nothing."""
        if not chunk.text and chunk.logprobs is None and chunk.finish_reason is None and self._prompts is None:
            return []
        logprobs = [chunk.logprobs] if chunk.logprobs else []
        tokens = [] if chunk.token is None else [chunk.token]
        return [self._choice(index, chunk.text, logprobs, chunk.finish_reason, tokens)]

    def _choice(
        self,
        index: int,
        text: str,
        logprobs: Sequence[TokenLogprobs | int],
        finish_reason: str | None,
        tokens: list[int],
    ) -> ResponseChoice:
        formatted = None
        if logprobs:
            offset = self._offsets[index]
            formatted = completion_logprobs(logprobs, self._vocabulary, offset, token_names=self._token_names)
            self._offsets[index] = formatted.pop("end")
        choice = {"index": index, "text": text, "logprobs": formatted, "finish_reason": finish_reason}
        if self._prompts is None:
            return choice
        prompt = None if index in self._begun else self._prompts[index * len(self._prompts) // len(self._offsets)]
        self._begun.add(index)
        return {**choice, "token_ids": tokens, "prompt_token_ids": prompt}
