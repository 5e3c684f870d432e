# SPDX-License-Identifier: Apache-2.0
"""Where a training runs and how it handles faults: settings of a profile. Imports no torch.

Neither changes the result of a sound training, only where and how fast it is computed, so neither is part of a stage's
key. The method is in `config.py`.
"""

import math
from typing import Literal, Self

from pydantic import PositiveFloat, PositiveInt, model_validator

from steerlm.errors import ConfigError
from steerlm.models.shape import ModelShape
from steerlm.settings import Settings

STARTUP_TIMEOUT_MINUTES = 30.0
"""How long processes wait for each other while one may work for all: loading, the first step's compiling and
connecting, saving, writing the model."""


class LayoutSettings(Settings):
    """`nodes` x `devices` processes, of which `tensor` x `pipeline` hold one copy of the model."""

    nodes: PositiveInt = 1
    devices: PositiveInt = 1
    tensor: PositiveInt = 1
    pipeline: PositiveInt = 1
    virtual_pipeline: PositiveInt = 1
    """Interleaved chunks per pipeline stage; above 1 refused until it has been proven."""
    sequence_parallel: bool = False
    micro_batch: PositiveInt = 1
    """Bounds a row: at most micro_batch x window tokens, unless row_tokens says less."""
    row_tokens: PositiveInt | None = None
    recompute: Literal["none", "selective", "full"] = "none"
    attention: Literal["auto", "te", "sdpa"] = "auto"
    bucket_size: PositiveInt | None = None
    """Parameters of a gradient bucket, which is reduced as one; null: 40 million, or a million per replica if more."""
    threads: PositiveInt | None = None
    """CPU threads per process; null: an equal share of the machine's cores."""

    @property
    def processes(self) -> int:
        """Number of processes over all nodes, one per device."""
        return self.nodes * self.devices

    @property
    def data_parallel(self) -> int:
        """Number of replicas of the model."""
        return self.processes // (self.tensor * self.pipeline)

    @model_validator(mode="after")
    def _divides(self) -> Self:
        model = self.tensor * self.pipeline
        if self.processes % model:
            raise ValueError(f"{self.processes} processes do not divide by tensor x pipeline = {model}")
        if self.virtual_pipeline > 1:
            raise ValueError(
                "virtual_pipeline above 1, the interleaved schedule, gives wrong gradients without an error unless "
                "configured just so; it is refused until it has been run on GPUs: leave it out"
            )
        if self.sequence_parallel and self.tensor == 1:
            raise ValueError("sequence_parallel needs tensor > 1")
        return self

    def check_fits(self, shape: ModelShape) -> None:
        """Raise `ConfigError` if the model's sizes do not divide by the layout's, naming the sizes that would work."""
        of_tensor = ("num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size")
        for axis, names in (("tensor", of_tensor), ("pipeline", ("num_hidden_layers",))):
            sizes, parts = {name: getattr(shape, name) for name in names}, getattr(self, axis)
            wrong = next((name for name, size in sizes.items() if size % parts), None)
            if wrong:
                common = math.gcd(*sizes.values())
                possible = ", ".join(str(n) for n in range(1, common + 1) if common % n == 0)
                raise ConfigError(
                    f"{wrong} {sizes[wrong]} does not divide by layout.{axis} {parts}; "
                    f"possible for this model: {possible}"
                )

    def row_limit(self, window: int) -> int:
        """Most tokens of a row, for samples of at most `window` tokens."""
        return min(self.row_tokens or self.micro_batch * window, self.micro_batch * window)


class FaultSettings(Settings):
    """What a training does when something goes wrong."""

    collective_timeout_minutes: PositiveFloat = 3.0
    """How long a collective waits for a missing process in a step or validation; in slower work
    `STARTUP_TIMEOUT_MINUTES`, if that is longer."""
    non_finite: Literal["stop", "retry"] = "stop"
    """When a loss or gradient is not finite: stop, or go back to the last checkpoint, once."""
    straggler_every: PositiveInt | None = 50
    """Steps between reports of the slowest process; null: none."""

    @property
    def startup_timeout_minutes(self) -> float:
        """Timeout of collectives during slow work, such as loading and saving: never below that of a step."""
        return max(STARTUP_TIMEOUT_MINUTES, self.collective_timeout_minutes)
