# SPDX-License-Identifier: Apache-2.0
"""The wire format between the gateway and an upstream: `/v1/completions` with token ids in and out.

Beside OpenAI's fields it uses vLLM's `return_token_ids` and `return_tokens_as_token_ids`, without which neither the
tokens of an answer nor those of its log-probabilities could be known.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from steerlm.errors import InputError, SteerLMError
from steerlm.inference.engine.continuation import FinishReason
from steerlm.inference.engine.sampling_params import SamplingParams
from steerlm.inference.engine.sampling_state import MIN_LOGPROB, TokenLogprobs

ID_PREFIX = "token_id:"
SEEDS = 1 << 63


@dataclass(frozen=True, slots=True)
class UpstreamChoice:
    """What one reply or event adds to an answer.

    Attributes:
        tokens: Its ids.
        finish_reason: Why the upstream ended the answer; None while it goes on.
        logprobs: `logprobs` as they came.
    """

    tokens: list[int]
    finish_reason: FinishReason | None
    logprobs: Any


def completion_body(model: str, prompt: list[int], params: SamplingParams, max_tokens: int) -> dict[str, Any]:
    """Return the request for one answer.

    Raises:
        InputError: A parameter is one that upstreams do not have.
    """
    if params.nemo_penalty and params.repetition_penalty != 1.0:
        raise InputError(
            "repetition_penalty: NeMo's divides negative logits too, which only --engine transformers does; "
            "POST /v1/completions has the usual one"
        )
    body: dict[str, Any] = {
        "model": model,
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0.0 if params.greedy else params.temperature,
        "top_p": params.top_p or 1.0,
        "stop": list(params.stop),
        "return_token_ids": True,
    }
    optional = {
        "top_k": params.top_k,
        "min_tokens": min(params.min_tokens, max_tokens),
        "frequency_penalty": params.frequency_penalty,
        "presence_penalty": params.presence_penalty,
        "logit_bias": {str(token): bias for token, bias in params.logit_bias.items()},
    }
    body |= {name: value for name, value in optional.items() if value}
    if params.repetition_penalty != 1.0:
        body["repetition_penalty"] = params.repetition_penalty
    if params.seed is not None:
        body["seed"] = answer_seed(params.seed, params.answer)
    if params.logprobs is not None:
        body |= {"logprobs": params.logprobs, "return_tokens_as_token_ids": True}
    if params.grammar is not None:
        named = {"name": "answer", "schema": dict(params.grammar.schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": named}
    return body


def echo_body(model: str, ids: list[int], top: int) -> dict[str, Any]:
    """Return the request for the log-probabilities of a prompt."""
    asked = {"model": model, "prompt": ids, "max_tokens": 1, "temperature": 0.0, "echo": True, "logprobs": top}
    return asked | {"return_tokens_as_token_ids": True, "return_token_ids": True}


def answer_seed(seed: int, answer: int) -> int:
    """Return the upstream's seed of an answer: the client's for the first one, else one that depends on both.

    >>> answer_seed(7, 0), answer_seed(7, 1) == answer_seed(7, 1), answer_seed(7, 1) == answer_seed(7, 2)
    (7, True, False)
    """
    if answer == 0 and 0 <= seed < SEEDS:
        return seed
    digest = hashlib.sha256(f"{seed}/{answer}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % SEEDS


def read_choice(reply: Mapping[str, Any]) -> UpstreamChoice | None:
    """Return the one choice of a reply; None for an event without.

    Raises:
        SteerLMError: It has no token ids, or ended for another reason than its text.
    """
    choices = reply.get("choices")
    if not choices:
        return None
    choice = choices[0]
    tokens, reason = choice.get("token_ids"), choice.get("finish_reason")
    if tokens is None and (choice.get("text") or reason is None):
        raise SteerLMError(
            "the upstream returns no token ids (`return_token_ids`), without which text cannot be equal to that of "
            "training; vLLM has them since 0.10.2"
        )
    if reason is not None and reason not in get_args(FinishReason):
        raise SteerLMError(f"the upstream ended the answer: {reason}")
    return UpstreamChoice(tokens or [], reason, choice.get("logprobs"))


def read_logprobs(logprobs: Any, top: int) -> list[TokenLogprobs]:
    """Return the log-probabilities of tokens; without the first one of an echoed prompt, which has none.

    Args:
        logprobs: `logprobs` of a choice, whose tokens are `token_id:N`.
        top: How many of the most likely tokens to keep.

    Raises:
        SteerLMError: They are of another form.
    """
    try:
        rows = zip(logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True)
        return [
            TokenLogprobs(_id(token), max(value, MIN_LOGPROB), _most_likely(likely or {}, top))
            for token, value, likely in rows
            if value is not None
        ]
    except (KeyError, TypeError, ValueError):
        raise SteerLMError("the upstream's log-probabilities are not those of token ids") from None


def _most_likely(likely: Mapping[str, float], top: int) -> tuple[tuple[int, float], ...]:
    ordered = sorted(likely.items(), key=lambda pair: -pair[1])
    return tuple((_id(token), max(value, MIN_LOGPROB)) for token, value in ordered[:top])


def _id(token: str) -> int:
    if not token.startswith(ID_PREFIX):
        raise ValueError(token)
    return int(token.removeprefix(ID_PREFIX))
