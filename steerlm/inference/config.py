# SPDX-License-Identifier: Apache-2.0
"""Settings of scoring and offline generation. Torch-free."""

from typing import Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from steerlm.inference.engine.sampling_params import SamplingParams
from steerlm.prompt import TURN_STOP_STRINGS
from steerlm.settings import Settings

OverLong = Literal["error", "keep_end", "skip"]
"""What to do with a text longer than the model's window: raise an error, score its last `window` tokens, or skip it."""

Precision = Literal["auto", "fp32", "bf16"]
"""Precision of the weights in memory. `auto`: fp32 on a CPU, else the folder's. Scores are always fp32."""


class SamplingSettings(Settings):
    """How the next token is chosen, and when to stop (docs/upstream.md#sampling-semantics).

    Attributes:
        max_tokens: Tokens to generate at most.
        temperature: 0 is greedy; `top_k` and `top_p` then have no effect.
        top_k: 0 disables the filter. Applies before `top_p`.
        top_p: The first token that crosses it is kept; 0 is greedy.
        stop: The text ends before the first of these strings. Default: the next turn's mark, with the newline that the
            template writes before it.
    """

    max_tokens: PositiveInt = 256
    temperature: NonNegativeFloat = 0.0
    top_k: NonNegativeInt = 0
    top_p: float = Field(default=1.0, ge=0, le=1)
    stop: tuple[str, ...] = TURN_STOP_STRINGS

    @model_validator(mode="after")
    def _stop_strings(self) -> Self:
        if not all(self.stop):
            raise ValueError("a stop string is empty")
        return self

    def params(self) -> SamplingParams:
        """Return the engine's parameters."""
        return SamplingParams(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            stop=self.stop,
        )
