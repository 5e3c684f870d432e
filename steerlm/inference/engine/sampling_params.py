# SPDX-License-Identifier: Apache-2.0
"""The sampling parameters of one request. Imports no torch."""

import dataclasses
from dataclasses import dataclass

from steerlm.errors import InputError

MAX_STOP_STRINGS, MAX_STOP_LENGTH = 64, 1000
GREEDY_BELOW = 1e-6
"""Temperatures up to this one select the most likely token: dividing logits by less would overflow."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the tokens of a request are chosen and when it ends (docs/upstream.md#sampling-semantics).

    Attributes:
        max_tokens: Tokens to generate at most. None: as many as the window leaves.
        temperature: 0 is greedy; penalty and filters then have no effect.
        top_k: Sample from the k most likely tokens; 0 disables the filter. Applies before `top_p`.
        top_p: Sample from the smallest set of tokens that reaches this probability; 0 and 1 disable the filter.
        repetition_penalty: Divides the logits of tokens in the prompt and the continuation, whatever their sign.
        min_tokens: The end-of-text token is suppressed until this many tokens are generated; stop strings are not.
        seed: Seed of the request's random numbers. None: different for each request.
        stop: The text ends before the first of these strings.
        logprobs: Number of most likely tokens to report with each chosen token. None: report no log-probabilities.

    Raises:
        InputError: There are too many stop strings, or one is too long: each step searches for all of them.
    """

    max_tokens: int | None = 64
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    min_tokens: int = 0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None

    def __post_init__(self) -> None:
        if len(self.stop) > MAX_STOP_STRINGS or any(len(s) > MAX_STOP_LENGTH for s in self.stop):
            raise InputError(
                f"at most {MAX_STOP_STRINGS} stop strings of at most {MAX_STOP_LENGTH} characters each are allowed"
            )

    @property
    def greedy(self) -> bool:
        """Whether each token is the most likely one."""
        return self.temperature <= GREEDY_BELOW

    def for_answer(self, index: int) -> "SamplingParams":
        """Return the parameters of answer `index` of a request: with a seed, each answer draws its own numbers."""
        return self if self.seed is None else dataclasses.replace(self, seed=self.seed + index)
