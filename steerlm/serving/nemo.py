# SPDX-License-Identifier: Apache-2.0
"""`PUT /generate` as NeMo's text generation server has it: same fields, same messages, same reply.

Source: behaviour spec 5.2-5.4. Deviations, all documented in docs/serving.md: bad input is HTTP 400 with the common
error body (`--upstream-errors`: 200 and a JSON string); every sentence gets `tokens_to_generate` tokens of its own; an
end string is found wherever it falls in a token, and nothing follows it; the next turn's mark always ends an answer.
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

from steerlm.errors import InputError
from steerlm.inference.engine.engine import Engine
from steerlm.inference.engine.request import Completion
from steerlm.inference.engine.sampling import LOWEST, Sampling
from steerlm.prompt import TURN_MARK
from steerlm.serving.disconnect import while_connected
from steerlm.serving.errors import ApiError, error_body
from steerlm.serving.generation import GenerationService, reseeded

logger = logging.getLogger(__name__)
router = APIRouter(tags=["legacy"])

MAX_SENTENCES = 128
MOST_TOP_K = 1 << 31
MAX_PROBABILITIES = 1 << 22
"""Numbers that one reply with `all_probs` may have; each is some 20 bytes of JSON."""


def _number(value: Any) -> bool:
    # An integer may be beyond every float; NaN compares with nothing.
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


def _boolean(value: Any) -> bool:
    return isinstance(value, bool)


# name: (default, check, message). Python booleans pass the integer checks, as upstream.
FIELDS: dict[str, tuple[Any, Callable[[Any], bool], str]] = {
    "tokens_to_generate": (
        64,
        lambda v: isinstance(v, int) and v >= 1,
        "tokens_to_generate must be an integer greater than 0",
    ),
    "all_probs": (False, _boolean, "all_probs must be a boolean value"),
    "temperature": (
        1.0,
        lambda v: _number(v) and 0 < v <= 100,
        "temperature must be a positive number less than or equal to 100.0",
    ),
    "add_BOS": (False, _boolean, "add_BOS must be a boolean value"),
    "greedy": (False, _boolean, "greedy must be a boolean value"),
    "top_k": (0, lambda v: _number(v) and v >= 0, "top_k must be a positive integer number"),
    "top_p": (
        0.9,
        lambda v: _number(v) and 0 <= v <= 1,
        "top_p must be a positive number less than or equal to 1.0",
    ),
    "repetition_penalty": (
        1.0,
        lambda v: _number(v) and v >= 1,
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
    "compute_logprob": (False, _boolean, "compute_logprob must be a boolean value"),
    "random_seed": (
        None,
        lambda v: v is None or (isinstance(v, int) and v >= 0),
        "random_seed must be a positive integer number or None",
    ),
}
ELSEWHERE = {
    "task_ids": "task_ids select a prompt-tuned task; this server has none",
    "neighbors": "neighbors are for retrieval models; this server has none",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """A request whose fields are checked."""

    sentences: list[str]
    sampling: Sampling
    add_bos: bool
    logprob: bool
    all_probs: bool


def parse(body: Any) -> Asked:
    """Check a request body; raises `ApiError` with upstream's message for the first field that is wrong."""
    if not isinstance(body, dict):
        raise ApiError("the body must be a JSON object")
    sentences = body.get("sentences")
    if not isinstance(sentences, list) or not sentences or not all(isinstance(s, str) for s in sentences):
        raise ApiError("sentences must be given: a list of strings, one prompt each", param="sentences")
    if len(sentences) > MAX_SENTENCES:
        raise ApiError(f"Maximum number of sentences is {MAX_SENTENCES}", param="sentences")
    for name in body.keys() - FIELDS.keys() - ELSEWHERE.keys() - {"sentences"}:
        logger.error("PUT /generate: unknown field %r is ignored", name)
    values: dict[str, Any] = {}
    for name, (default, right, message) in FIELDS.items():
        values[name] = body.get(name, default)
        if not right(values[name]):
            raise ApiError(message, param=name)
    for name, message in ELSEWHERE.items():
        if body.get(name) is not None:
            raise ApiError(message, param=name)
    sampling = Sampling(
        max_tokens=int(values["tokens_to_generate"]),
        temperature=0.0 if values["greedy"] else float(values["temperature"]),
        top_k=int(min(values["top_k"], MOST_TOP_K)),
        top_p=float(values["top_p"]),
        repetition_penalty=float(values["repetition_penalty"]),
        min_tokens=int(values["min_tokens_to_generate"]),
        seed=None if values["random_seed"] is None else int(values["random_seed"]),
        stop=(*filter(None, values["end_strings"]), TURN_MARK),
    )
    return Asked(sentences, sampling, values["add_BOS"], values["compute_logprob"], values["all_probs"])


def _described(default: Any) -> dict[str, Any]:
    """A field in the OpenAPI document; no default: an integer or null."""
    if isinstance(default, list):
        return {"type": "array", "items": {"type": "string"}, "default": default}
    kinds: dict[type, Any] = {bool: "boolean", int: "integer", float: "number"}
    return {"type": kinds.get(type(default), ["integer", "null"]), "default": default}


@router.put(
    "/generate",
    summary="NeMo's text generation interface",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "required": ["sentences"],
                        "properties": {"sentences": {"type": "array", "items": {"type": "string"}}}
                        | {name: _described(default) for name, (default, _, _) in FIELDS.items()},
                    }
                }
            },
        }
    },
)
async def generate(request: Request) -> Any:
    service: GenerationService = request.app.state.service
    try:
        try:
            body = json.loads(await request.body())
        except (ValueError, RecursionError) as error:
            raise ApiError(f"the body is not JSON: {error}") from None
        asked = parse(body)
        prompts = await asyncio.to_thread(_prompts, asked, service)
    except InputError as error:
        param = error.param if isinstance(error, ApiError) else None
        if service.settings.upstream_errors:
            return JSONResponse(str(error), 400 if param == "sentences" else 200)
        return JSONResponse(error_body(str(error), 400, param), 400)
    request.state.place.take(len(prompts))
    answers = await while_connected(request, service.several(prompts, reseeded(asked.sampling, len(prompts))))
    return await asyncio.to_thread(_reply, asked, prompts, answers, service.engine)


def _prompts(asked: Asked, service: GenerationService) -> list[list[int]]:
    engine = service.engine
    begin: list[int] = []
    if asked.add_bos:
        if engine.tokenizer.bos_token_id is None:
            raise ApiError("add_BOS: this model's tokenizer has no begin-of-text token", param="add_BOS")
        begin = [engine.tokenizer.bos_token_id]
    prompts = [begin + engine.encode(sentence) for sentence in asked.sentences]
    for index, prompt in enumerate(prompts):
        try:
            tokens = asked.sampling.max_tokens
            service.check(prompt, tokens, prompt_param="sentences", tokens_param="tokens_to_generate")
        except ApiError as error:
            raise ApiError(f"sentences[{index}]: {error}", param=error.param) from None
    numbers = sum(len(p) + asked.sampling.max_tokens for p in prompts) * engine.vocabulary_size
    if asked.all_probs and numbers > MAX_PROBABILITIES:
        raise ApiError(
            f"all_probs would be up to {numbers} numbers; at most {MAX_PROBABILITIES} are given: "
            "send fewer sentences or ask for fewer tokens",
            param="all_probs",
        )
    return prompts


def _reply(asked: Asked, prompts: list[list[int]], answers: list[Completion], engine: Engine) -> dict[str, Any]:
    """Rows that finished early are filled with end-of-text up to the longest, as upstream does."""
    ids = [prompt + answer.tokens for prompt, answer in zip(prompts, answers, strict=True)]
    longest = max(map(len, ids))
    fill = engine.end_ids[0] if engine.end_ids else 0
    full = [row + [fill] * (longest - len(row)) for row in ids]
    return {
        "sentences": [s + a.text + (a.stopped_by or "") for s, a in zip(asked.sentences, answers, strict=True)],
        "tokens": [engine.tokenizer.convert_ids_to_tokens(row) for row in full],
        "logprob": [_logprob(engine, row, longest) for row in ids] if asked.logprob else None,
        "full_logprob": [_full(engine, row, longest) for row in ids] if asked.all_probs else None,
        "token_ids": full,
        "offsets": [engine.offsets(row) for row in full],
    }


def _logprob(engine: Engine, row: list[int], longest: int) -> list[float]:
    """Of every token after the first; 0 for the filling, which was never predicted."""
    return [log.logprob for log in engine.logs(row)] + [0.0] * (longest - len(row))


def _full(engine: Engine, row: list[int], longest: int) -> list[list[float]]:
    """The whole vocabulary's log-probabilities in the place of every token after the first; 0 for the filling."""
    known: list[list[float]] = engine.distributions(row).clamp(min=LOWEST).tolist()
    return known + [[0.0] * engine.vocabulary_size] * (longest - len(row))
