# SPDX-License-Identifier: Apache-2.0
"""One sequence as token selection sees it, and the log-probabilities that are reported of its tokens.

Imports no torch: before an upstream, which selects the tokens, the same sequence is read here.
"""

from collections.abc import Callable
from dataclasses import dataclass

from steerlm.inference.engine.sampling_params import SamplingParams

MIN_LOGPROB = -9999.0
"""Reported instead of -inf, which JSON cannot represent."""


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural log-probabilities under the model's own distribution, before temperature, penalty and filters.

    Attributes:
        token: The token that was chosen, or that is in the prompt.
        logprob: Its log-probability.
        top: (token, log-probability) of the most likely tokens, most likely first.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class SamplingState:
    """What token selection needs to know of one sequence.

    Attributes:
        params: The request's parameters.
        prompt: Token ids of the prompt.
        tokens: Token ids generated so far.
        matcher: How far the answer has come in the grammar; None without one.
        next_uniform: Returns the sequence's next random number in [0, 1).
    """

    def __init__(
        self, params: SamplingParams, prompt: list[int], next_uniform: Callable[[], float] | None = None
    ) -> None:
        """Start a sequence; without `next_uniform` a generator with the request's seed draws its numbers."""
        self.params, self.prompt = params, prompt
        self.tokens: list[int] = []
        self.matcher = params.grammar.start() if params.grammar else None
        self.next_uniform = next_uniform or params.random_numbers().random

    def append(self, token: int) -> None:
        """Add a token."""
        self.tokens.append(token)
        if self.matcher:
            self.matcher.append(token)
