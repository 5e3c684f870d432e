# SPDX-License-Identifier: Apache-2.0
"""Settings of the annotation of a corpus. Torch-free."""

from typing import Any, Literal

from pydantic import Field, PositiveInt

from steerlm.dropped import DEFAULT_LIMIT
from steerlm.inference.config import OverLong, Precision
from steerlm.settings import Settings


class AnnotateSettings(Settings):
    """Which turns of a corpus are scored, and how.

    Attributes:
        turns: `answers` scores every turn that is not the masked role's; `labeled` those with a label, as upstream.
        use_system: Use the record's system prompt, not the constant one that the reward model was trained with.
        over_long: What to do with a text longer than the model's window.
        on_error: `skip` writes bad lines to the rejects file and continues.
        max_dropped: The largest share of a file's lines that may be rejected, and of its answers that may stay without
            a label because they are over-long; more is an error of the stage.
        look_ahead: Texts that are sorted by length together. Bounds the memory, and the work that a kill can cost.
        batch_tokens: Tokens of a batch, padding included. None: 2,048 on a CPU, whose caches are small, 16,384 on an
            accelerator.
        dtype: Precision of the weights.
    """

    turns: Literal["answers", "labeled"] = "answers"
    use_system: bool = False
    over_long: OverLong = "error"
    on_error: Literal["stop", "skip"] = "stop"
    max_dropped: float = Field(default=DEFAULT_LIMIT, ge=0, le=1)
    look_ahead: PositiveInt = 1024
    batch_tokens: PositiveInt | None = None
    dtype: Precision = "auto"

    def method(self) -> dict[str, Any]:
        """Return the settings that decide the output's content, which a resumed run must share with the first one."""
        return self.model_dump(include={"turns", "use_system", "over_long", "on_error"})
