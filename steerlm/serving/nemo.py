# SPDX-License-Identifier: Apache-2.0
"""`PUT /generate` of NeMo's text generation server: same fields, messages and response.

See docs/upstream.md#put-generate-fields. Deviations, all documented in docs/serving.md: bad input is HTTP 400 with the
common error body, and so is an unknown field (`--upstream-errors`: 200 and a JSON string, unknown fields are ignored);
every sentence gets `tokens_to_generate` tokens of its own; an end string is found at any position in a token, and
nothing follows it; the next turn's mark always ends an answer.
"""

import asyncio
import dataclasses
import json
import logging
import sys
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from steerlm.attributes import AttributeSchema
from steerlm.errors import InputError, nearest
from steerlm.inference.engine.request import Completion
from steerlm.inference.engine.sampling_params import SamplingParams
from steerlm.prompt import TURN_MARK
from steerlm.serving.admission import cancel_on_disconnect
from steerlm.serving.dials import RAW_PLACE, is_dial, misplaced
from steerlm.serving.engines import AnswerEngine
from steerlm.serving.errors import ApiError, error_body
from steerlm.serving.generation import GenerationService, Submission

logger = logging.getLogger(__name__)
router = APIRouter(tags=["legacy"])

MAX_SENTENCES = 128
MAX_TOP_K = 1 << 31
MAX_PROBABILITIES = 1 << 22
"""Numbers in one response with `all_probs`; each is about 20 bytes of JSON."""
ERRORS = {"anyOf": [{"$ref": "#/components/schemas/Error"}, {"type": "string", "description": "--upstream-errors"}]}
"""A refusal in the document."""


def _is_number(value: Any) -> bool:
    # An integer may be larger than every float; comparisons with NaN are false.
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


def _is_boolean(value: Any) -> bool:
    return isinstance(value, bool)


# name: (default, check, upstream's message). Python booleans pass the integer checks, as upstream.
FIELDS: dict[str, tuple[Any, Callable[[Any], bool], str]] = {
    "tokens_to_generate": (
        64,
        lambda v: isinstance(v, int) and v >= 1,
        "tokens_to_generate must be an integer greater than 0",
    ),
    "all_probs": (False, _is_boolean, "all_probs must be a boolean value"),
    "temperature": (
        1.0,
        lambda v: _is_number(v) and 0 < v <= 100,
        "temperature must be a positive number less than or equal to 100.0",
    ),
    "add_BOS": (False, _is_boolean, "add_BOS must be a boolean value"),
    "greedy": (False, _is_boolean, "greedy must be a boolean value"),
    "top_k": (0, lambda v: _is_number(v) and v >= 0, "top_k must be a positive integer number"),
    "top_p": (
        0.9,
        lambda v: _is_number(v) and 0 <= v <= 1,
        "top_p must be a positive number less than or equal to 1.0",
    ),
    "repetition_penalty": (
        1.0,
        lambda v: _is_number(v) and v >= 1,
        "repetition_penalty must be a positive number no less than 1.0",
    ),
    "end_strings": (
        ["<|endoftext|>"],
        lambda v: isinstance(v, list) and all(isinstance(s, str) for s in v),
        "expect end_strings to be a list of strings",
    ),
    "min_tokens_to_generate": (
        0,
        lambda v: isinstance(v, int) and v >= 0,
        "min_tokens_to_generate must be an integer no less than 0",
    ),
    "compute_logprob": (False, _is_boolean, "compute_logprob must be a boolean value"),
    "random_seed": (
        None,
        lambda v: v is None or (isinstance(v, int) and v >= 0),
        "random_seed must be a positive integer number or None",
    ),
}
UNSUPPORTED = {
    "task_ids": "task_ids select a prompt-tuned task; this server has none",
    "neighbors": "neighbors are for retrieval models; this server has none",
}


@dataclasses.dataclass(frozen=True, slots=True)
class NemoRequest:
    """A request whose fields are checked."""

    sentences: list[str]
    params: SamplingParams
    add_bos: bool
    logprob: bool
    all_probs: bool


def parse_request(body: Any, schema: AttributeSchema | None = None, *, lenient: bool = False) -> NemoRequest:
    """Check a request body.

    Args:
        body: The JSON of the request.
        schema: The model's attributes; a field named like one is refused with the place of dials.
        lenient: Ignore unknown fields, with an error in the log, as upstream.

    Raises:
        ApiError: With upstream's message for the first invalid field.
    """
    if not isinstance(body, dict):
        raise ApiError("the body must be a JSON object")
    sentences = body.get("sentences")
    if not isinstance(sentences, list) or not sentences or not all(isinstance(s, str) for s in sentences):
        raise ApiError("sentences must be given: a list of strings, one prompt each", param="sentences")
    if len(sentences) > MAX_SENTENCES:
        raise ApiError(f"Maximum number of sentences is {MAX_SENTENCES}", param="sentences")
    for name in [name for name in body if name not in {"sentences", *FIELDS, *UNSUPPORTED} and body[name] is not None]:
        if is_dial(name, schema):
            raise ApiError(misplaced(name, schema, FIELDS, RAW_PLACE), param=name)
        if not lenient:
            raise ApiError(f"unknown field {name!r}{nearest(name, ('sentences', *FIELDS))}", param=name)
        logger.error("PUT /generate: unknown field %r is ignored", name)
    values: dict[str, Any] = {}
    for name, (default, is_valid, message) in FIELDS.items():
        values[name] = body.get(name, default)
        if not is_valid(values[name]):
            raise ApiError(message, param=name)
    for name, message in UNSUPPORTED.items():
        if body.get(name) is not None:
            raise ApiError(message, param=name)
    params = SamplingParams(
        max_tokens=int(values["tokens_to_generate"]),
        temperature=0.0 if values["greedy"] else float(values["temperature"]),
        top_k=int(min(values["top_k"], MAX_TOP_K)),
        top_p=float(values["top_p"]) or 1.0,  # 0 disables the filter there
        repetition_penalty=1.0 if values["greedy"] else float(values["repetition_penalty"]),
        nemo_penalty=True,
        min_tokens=int(values["min_tokens_to_generate"]),
        seed=None if values["random_seed"] is None else int(values["random_seed"]),
        stop=(*filter(None, values["end_strings"]), TURN_MARK),
        logprobs=0 if values["compute_logprob"] else None,
    )
    return NemoRequest(sentences, params, values["add_BOS"], values["compute_logprob"], values["all_probs"])


def _field_schema(default: Any) -> dict[str, Any]:
    """Return the OpenAPI schema of a field; without a default it is an integer or null."""
    if isinstance(default, list):
        return {"type": "array", "items": {"type": "string"}, "default": default}
    types: dict[type, Any] = {bool: "boolean", int: "integer", float: "number"}
    return {"type": types.get(type(default), ["integer", "null"]), "default": default}


@router.put(
    "/generate",
    summary="NeMo's text generation interface",
    responses={400: {"content": {"application/json": {"schema": ERRORS}}}},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "required": ["sentences"],
                        "properties": {"sentences": {"type": "array", "items": {"type": "string"}}}
                        | {name: _field_schema(default) for name, (default, _, _) in FIELDS.items()},
                    }
                }
            },
        }
    },
)
async def generate(request: Request) -> Any:
    """Continue sentences."""
    service: GenerationService = request.app.state.service
    try:
        try:
            body = json.loads(await request.body())
        except (ValueError, RecursionError) as error:
            raise ApiError(f"the body is not JSON: {error}") from None
        nemo_request = parse_request(body, service.schema, lenient=service.settings.upstream_errors)
        submission = await _submit(nemo_request, service)
    except InputError as error:
        param = error.param if isinstance(error, ApiError) else None
        if service.settings.upstream_errors:
            return JSONResponse(str(error), 400 if param == "sentences" else 200)
        return JSONResponse(error_body(str(error), 400, param), 400)
    request.state.slot.acquire(len(submission.answers))
    answers = await cancel_on_disconnect(request, submission.completions())
    logprob, full_logprob = await _logprobs(nemo_request, submission.prompts, answers, service.engine)
    return await asyncio.to_thread(
        _response, nemo_request, submission.prompts, answers, service.engine, logprob, full_logprob
    )


async def _submit(request: NemoRequest, service: GenerationService) -> Submission:
    engine, tokens = service.engine, request.params.max_tokens
    bos: list[int] = []
    if request.add_bos:
        if engine.tokenizer.bos_token_id is None:
            raise ApiError("add_BOS: this model's tokenizer has no begin-of-text token", param="add_BOS")
        bos = [engine.tokenizer.bos_token_id]
    prompts = await asyncio.to_thread(lambda: [bos + engine.encode(sentence) for sentence in request.sentences])
    names = [f"sentences[{index}]" for index in range(len(prompts))]
    try:
        submission = await service.submit(prompts, request.params, names=names, max_tokens_name="tokens_to_generate")
    except ApiError as error:
        # The message names the sentence; the parameter is all of them.
        raise ApiError(str(error), param="sentences" if error.param in names else error.param) from None
    assert tokens is not None
    numbers = sum(len(prompt) + tokens for prompt in prompts) * engine.vocabulary_size
    if request.all_probs and numbers > MAX_PROBABILITIES:
        raise ApiError(
            f"all_probs would return up to {numbers} numbers; the limit is {MAX_PROBABILITIES}: "
            "send fewer sentences or generate fewer tokens",
            param="all_probs",
        )
    return submission


async def _logprobs(
    request: NemoRequest, prompts: list[list[int]], answers: list[Completion], engine: AnswerEngine
) -> tuple[list[list[float]] | None, list[list[list[float]]] | None]:
    """Return the log-probabilities of every token after the first, and those of the vocabulary there, if asked for.

    Shorter rows are filled with 0 up to the longest: the filling was not generated.
    """
    pairs = list(zip(prompts, answers, strict=True))
    longest = max(len(prompt) + len(answer.tokens) for prompt, answer in pairs)
    logprob: list[list[float]] | None = None
    full: list[list[list[float]]] | None = None
    if request.logprob:
        logprob = []
        for prompt, answer in pairs:
            row = [one.logprob for one in [*await engine.logprobs(prompt), *answer.logprobs]]
            logprob.append(row + [0.0] * (longest - 1 - len(row)))
    if request.all_probs:
        full = []
        for prompt, answer in pairs:
            values = await engine.full_logprobs(prompt + answer.tokens)
            full.append(values + [[0.0] * engine.vocabulary_size] * (longest - 1 - len(values)))
    return logprob, full


def _response(
    request: NemoRequest,
    prompts: list[list[int]],
    answers: list[Completion],
    engine: AnswerEngine,
    logprob: list[list[float]] | None,
    full_logprob: list[list[list[float]]] | None,
) -> dict[str, Any]:
    """Return upstream's response body: shorter rows are filled with end-of-text up to the longest."""
    rows = [prompt + answer.tokens for prompt, answer in zip(prompts, answers, strict=True)]
    longest = max(map(len, rows))
    fill = engine.end_ids[0] if engine.end_ids else 0
    filled = [row + [fill] * (longest - len(row)) for row in rows]
    pairs = zip(request.sentences, answers, strict=True)
    return {
        "sentences": [sentence + answer.text + (answer.stop_string or "") for sentence, answer in pairs],
        "tokens": [engine.tokenizer.convert_ids_to_tokens(row) for row in filled],
        "logprob": logprob,
        "full_logprob": full_logprob,
        "token_ids": filled,
        "offsets": [engine.vocabulary.offsets(row) for row in filled],
    }
