# SPDX-License-Identifier: Apache-2.0
"""Settings of the offline passes: how texts are scored, how a corpus is annotated, how a model samples. Torch-free.

What changes the result is told apart from what only changes the speed: `AnnotateSettings.method` is what a resumed
pass must share with the pass it goes on with.
"""

from typing import Any, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from steerlm.prompt import TURN_MARK
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
