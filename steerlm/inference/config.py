# SPDX-License-Identifier: Apache-2.0
"""Settings of the offline passes: how texts are scored, how a corpus is annotated, how a model samples. Torch-free.

What changes the result is told apart from what only changes the speed: `AnnotateSettings.method` is what a resumed
pass must share with the pass it goes on with.
"""

from typing import Any, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from steerlm.inference.engine.sampling_params import SamplingParams
from steerlm.prompt import TURN_STOP_STRINGS
from steerlm.settings import Settings

OverLong = Literal["error", "keep_end", "skip"]
"""A text longer than the model's window: stop; score its last `window` tokens (the read-out mark is kept); no score."""

Precision = Literal["auto", "fp32", "bf16"]
"""Of the weights in memory. `auto`: the folder's own on an accelerator, fp32 on a CPU. Scores are fp32 anyway."""


class AnnotateSettings(Settings):
    """`turns`: `answers` scores every turn that is not the masked role's, `labelled` those with a label (as upstream).

    `use_system`: the record's system prompt in place of the constant one that the reward model was trained with.
    `on_error: skip` writes bad lines to the rejects file and goes on. `look_ahead`: texts that are sorted by length
    together; it bounds the memory, and the work that a kill can cost.
    """

    turns: Literal["answers", "labelled"] = "answers"
    use_system: bool = False
    over_long: OverLong = "error"
    on_error: Literal["stop", "skip"] = "stop"
    look_ahead: PositiveInt = 1024
    batch_tokens: PositiveInt | None = None
    """Tokens of a batch, padding included; null: 2,048 on a CPU, whose caches are small, 16,384 on an accelerator."""
    dtype: Precision = "auto"

    def method(self) -> dict[str, Any]:
        """The settings that decide what the output says."""
        return self.model_dump(include={"turns", "use_system", "over_long", "on_error"})


class SamplingSettings(Settings):
    """How the next token is chosen, and when to stop (docs/upstream.md#sampling-semantics).

    Attributes:
        max_tokens: Tokens to generate at most.
        temperature: 0 is greedy; `top_k` and `top_p` then have no effect.
        top_k: 0 disables the filter. Applies before `top_p`.
        top_p: The first token that crosses it is kept.
        stop: The text ends before the first of these strings. Default: the next turn's mark, with the newline that the
            template writes before it.
    """

    max_tokens: PositiveInt = 256
    temperature: NonNegativeFloat = 0.0
    top_k: NonNegativeInt = 0
    top_p: float = Field(default=1.0, gt=0, le=1)
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
