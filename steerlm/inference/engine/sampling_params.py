# SPDX-License-Identifier: Apache-2.0
"""The sampling parameters of one request. Imports no torch."""

import dataclasses
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from steerlm.errors import InputError

if TYPE_CHECKING:
    from steerlm.inference.engine.json_schema import JsonGrammar

MAX_STOP_STRINGS, MAX_STOP_LENGTH = 64, 1000
GREEDY_BELOW = 1e-6
"""Temperatures up to this one select the most likely token: dividing logits by less would overflow."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the tokens of a request are chosen and when it ends (docs/upstream.md#sampling-semantics).

    Bias and penalties change the logits in this order, at every temperature; grammar, temperature and filters follow.

    Attributes:
        max_tokens: Tokens to generate at most. None: as many as the window leaves.
        temperature: 0 is greedy.
        top_k: Sample from the k most likely tokens; 0 disables the filter. Applies before `top_p`.
        top_p: Sample from the smallest set of tokens that reaches this probability; 0 is greedy, 1 disables the filter.
        logit_bias: Is added to the logits of these token ids.
        repetition_penalty: Above 1, makes the tokens of prompt and continuation less likely, as in transformers: a
            positive logit is divided by it, a negative one multiplied.
        nemo_penalty: The repetition penalty divides logits whatever their sign, as in NeMo, and so makes tokens with a
            negative logit more likely.
        frequency_penalty: Is subtracted from a token's logit each time the continuation has the token.
        presence_penalty: Is subtracted once from the logit of a token that the continuation has.
        min_tokens: The end-of-text token is suppressed until this many tokens are generated; stop strings are not.
        seed: Any integer; requests with the same one draw the same random numbers. None: each draws its own.
        answer: Number of the answer to the request; the answers to one request draw different numbers.
        stop: The text ends before the first of these strings.
        grammar: What the answer must conform to; it ends where nothing can be added. None: any text.
        logprobs: Number of most likely tokens to report with each chosen token. None: report no log-probabilities.

    Raises:
        InputError: There are too many stop strings, or one is too long: each step searches for all of them.
    """

    max_tokens: int | None = 64
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    repetition_penalty: float = 1.0
    nemo_penalty: bool = False
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    min_tokens: int = 0
    seed: int | None = None
    answer: int = 0
    stop: tuple[str, ...] = ()
    grammar: "JsonGrammar | None" = None
    logprobs: int | None = None

    def __post_init__(self) -> None:
        if len(self.stop) > MAX_STOP_STRINGS or any(len(s) > MAX_STOP_LENGTH for s in self.stop):
            raise InputError(
                f"at most {MAX_STOP_STRINGS} stop strings of at most {MAX_STOP_LENGTH} characters each are allowed"
            )

    @property
    def greedy(self) -> bool:
        """Whether each token is the most likely one."""
        return self.temperature <= GREEDY_BELOW or self.top_p == 0

    def for_answer(self, index: int) -> "SamplingParams":
        """Return the parameters of answer `index` of a request."""
        return dataclasses.replace(self, answer=index)

    def random_numbers(self) -> random.Random:
        """Return the generator of the answer's random numbers: its own for every seed and answer."""
        # `Random` seeded with a number takes its absolute value; a text is hashed whole.
        return random.Random() if self.seed is None else random.Random(f"{self.seed}/{self.answer}")
