# SPDX-License-Identifier: Apache-2.0
"""How the next token is chosen: per-request temperature, top-k, top-p, penalty, seed, minimum length.

Knows logits and what a request asked for; nothing of batching, caches or text. The draw itself is shared with offline
generation (`steerlm.inference.sampling`). Source: behaviour spec 5.4.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from steerlm.errors import InputError
from steerlm.inference.sampling import draw

MAX_STOPS, MAX_STOP_LENGTH = 64, 1000
COLDEST = 1e-6
"""Below this temperature the likeliest token is taken: dividing by less would overflow."""
LOWEST = -9999.0


@dataclass(frozen=True, slots=True)
class Sampling:
    """What a request asks for. `temperature` 0 is greedy: penalty and filters are then ignored.

    `top_k` 0 and `top_p` 1 (or 0) switch the filters off; both may apply, top-k first. `min_tokens` suppresses the
    end-of-text token only, not stop strings. `seed` None: a different answer each time. `logprobs`: how many of the
    likeliest tokens to tell beside each chosen one; None: nothing of the kind.
    """

    max_tokens: int = 64
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    min_tokens: int = 0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None

    def __post_init__(self) -> None:
        # Every step of every request looks for them.
        if len(self.stop) > MAX_STOPS or any(len(s) > MAX_STOP_LENGTH for s in self.stop):
            raise InputError(f"at most {MAX_STOPS} stop strings of {MAX_STOP_LENGTH} characters each are taken")


@dataclass(frozen=True, slots=True)
class TokenLog:
    """Log-probabilities (natural log) under the model's own distribution, before temperature, penalty and filters.

    `top`: (token, log-probability) of the likeliest tokens, likeliest first.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def token_logs(logs: torch.Tensor, tokens: Sequence[int], counts: Sequence[int]) -> list[TokenLog]:
    """What to tell of each row: `logs` [n, V] log-probabilities, `counts` how many of the likeliest."""
    if not tokens:
        return []
    # A model may give -inf, which JSON cannot say.
    logs = logs.clamp(min=LOWEST)
    own = logs.gather(-1, torch.tensor(tokens, device=logs.device)[:, None])[:, 0].tolist()
    values, ids = (x.tolist() for x in logs.topk(min(max(counts), logs.shape[-1]), dim=-1))
    rows = zip(tokens, own, ids, values, counts, strict=True)
    return [TokenLog(token, log, tuple(zip(i[:n], v[:n], strict=True))) for token, log, i, v, n in rows]


@dataclass(slots=True)
class Choice:
    """One request's state between steps: what was read and written so far, and its own random numbers."""

    sampling: Sampling
    prompt: list[int]
    tokens: list[int] = field(default_factory=list)
    numbers: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.numbers = random.Random(self.sampling.seed)


def choose(logits: torch.Tensor, choices: Sequence[Choice], *, end: Sequence[int], vocabulary: int) -> list[int]:
    """The next token id of each row. `logits` [n, V] fp32 (changed in place), one row per element of `choices`.

    `end` are the end-of-text ids; ids from `vocabulary` on (a padded embedding) are never chosen. What a row gets does
    not depend on the other rows: each draws one number from its own generator.
    """
    logits[:, vocabulary:] = -torch.inf
    for row, choice in zip(logits, choices, strict=True):
        if len(choice.tokens) < choice.sampling.min_tokens:
            row[list(end)] = -torch.inf
    tokens: list[int] = logits.argmax(-1).tolist()
    drawn = [i for i, choice in enumerate(choices) if choice.sampling.temperature > COLDEST]
    if drawn:
        sampled = _sample(logits[drawn], [choices[i] for i in drawn])
        for i, token in zip(drawn, sampled, strict=True):
            tokens[i] = token
    return tokens


def _sample(logits: torch.Tensor, choices: Sequence[Choice]) -> list[int]:
    for row, choice in zip(logits, choices, strict=True):
        if choice.sampling.repetition_penalty != 1.0:
            # As NeMo: divided whatever its sign, over prompt and continuation.
            row[sorted({*choice.prompt, *choice.tokens})] /= choice.sampling.repetition_penalty
    asked = [choice.sampling for choice in choices]

    def column(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64, device=logits.device)[:, None]

    tokens: list[int] = draw(
        logits,
        torch.tensor([choice.numbers.random() for choice in choices], dtype=torch.float64, device=logits.device),
        temperature=column([s.temperature for s in asked]),
        top_k=column([s.top_k for s in asked]),
        top_p=column([s.top_p or 1.0 for s in asked]),
    ).tolist()
    return tokens
