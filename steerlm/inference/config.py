# SPDX-License-Identifier: Apache-2.0
"""Settings of scoring and offline generation. Torch-free."""

from typing import Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from steerlm.prompt import TURN_MARK
from steerlm.settings import Settings

OverLong = Literal["error", "keep_end", "skip"]
"""What to do with a text longer than the model's window: raise an error, score its last `window` tokens, or skip it."""

Precision = Literal["auto", "fp32", "bf16"]
"""Precision of the weights in memory. `auto`: fp32 on a CPU, else the folder's. Scores are always fp32."""


class Sampling(Settings):
    """How the next token is chosen, and when to stop. `temperature` 0 is greedy: `top_k` and `top_p` are ignored.

    Filters apply in the order temperature, top_k, top_p; the first token that crosses `top_p` is kept (behaviour spec
    5.4). `stop`: the text ends before the first of these strings; the newline that the template writes after an
    answer belongs to the template, so it is taken off with the mark that follows it.
    """

    max_tokens: PositiveInt = 256
    temperature: NonNegativeFloat = 0.0
    top_k: NonNegativeInt = 0
    """0: no limit."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    stop: tuple[str, ...] = (f"\n{TURN_MARK}", TURN_MARK)

    @model_validator(mode="after")
    def _stop_strings(self) -> Self:
        if not all(self.stop):
            raise ValueError("a stop string is empty")
        return self
