# SPDX-License-Identifier: Apache-2.0
"""The settings of a training stage: method (recipe) and layout (profile). Torch-free, so that recipes parse anywhere.

Defaults are NeMo-Aligner's where it has one (behaviour spec 2.7, 2.9, 4.4). A layout never changes the result, only
where and how fast it is computed; it therefore takes no part in a stage's key.
"""

import math
from typing import Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from steerlm.errors import ConfigError
from steerlm.models.shape import ModelShape
from steerlm.settings import Settings

STARTUP_TIMEOUT_MINUTES = 30.0
"""How long processes wait for each other while one may work for all: loading, the first step's compiling and
connecting, saving, writing the model."""


class OptimizerSettings(Settings):
    """AdamW with decoupled decay (1-D parameters exempt), norm clipping, the cosine schedule of `schedule.py`."""

    lr: NonNegativeFloat = 9e-6
    min_lr: NonNegativeFloat = 9e-7
    warmup_steps: NonNegativeInt = 10
    constant_steps: NonNegativeInt = 0
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-8
    weight_decay: NonNegativeFloat = 0.1
    clip: NonNegativeFloat = 1.0

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.lr < self.min_lr:
            raise ValueError(f"lr {self.lr} is below min_lr {self.min_lr}")
        if self.constant_steps and self.lr == self.min_lr:
            raise ValueError("lr = min_lr needs constant_steps = 0")
        return self


class TrainSettings(Settings):
    """What every objective shares. Steps = min(max_steps, epochs * records / global_batch); either may be null."""

    max_steps: PositiveInt | None = None
    epochs: float | None = Field(default=None, gt=0)
    global_batch: PositiveInt = 64
    window: PositiveInt = 4096
    over_long: Literal["drop", "keep_end", "error"] = "drop"
    precision: Literal["bf16", "fp32"] = "bf16"
    reduce_gradients: Literal["fp32", "bf16"] = "fp32"
    """What gradients are summed in, over a step's rows and over replicas. bf16 (with precision bf16 alone) halves the
    gradient buffer and the bytes of its reduce-scatter, and rounds each partial sum to 8 bits."""
    seed: int = 1234
    optimizer: OptimizerSettings = OptimizerSettings()
    validate_every: PositiveInt | None = None
    """Steps between validations; null: only at the end."""
    validation_batches: PositiveInt | None = None
    """Global batches a validation reads; null: all."""
    save_every: PositiveInt | None = None
    """Steps between checkpoints for resume; null: as `save_minutes` says."""
    save_minutes: PositiveFloat | None = None
    """Minutes between checkpoints for resume, beside `save_every`. Both null: at the end and on a termination signal
    only."""
    keep: PositiveInt = 2
    """Newest checkpoints kept besides the best."""
    export: Literal["best", "last"] = "best"

    @model_validator(mode="after")
    def _lengths(self) -> Self:
        if self.max_steps is None and self.epochs is None:
            raise ValueError("give max_steps, epochs or both")
        return self

    @model_validator(mode="after")
    def _reduction(self) -> Self:
        if self.reduce_gradients == "bf16" and self.precision != "bf16":
            raise ValueError("reduce_gradients bf16 needs precision bf16: an fp32 weight's gradient is summed in fp32")
        return self

    @property
    def trains_attributes(self) -> bool:
        """Whether the trained model rates or follows the attributes that its data has labels for."""
        return False

    @property
    def initial_shape(self) -> ModelShape | None:
        """Shape of the random weights that training starts from; None to start from a model folder."""
        return None


class TextSettings(TrainSettings):
    """Plain language modelling. `shape` null: continue from the base model; given: start from random weights."""

    shape: ModelShape | None = None
    denominator: Literal["tokens"] = "tokens"

    @property
    def initial_shape(self) -> ModelShape | None:
        return self.shape


class SFTSettings(TrainSettings):
    """Attribute-conditioned fine-tuning. `denominator: conversations` weighs conversations equally (the tutorial's
    micro-batch 1), `tokens` weighs learned tokens equally. `conditioned: false` drops every label (a baseline)."""

    denominator: Literal["conversations", "tokens"] = "conversations"
    conditioned: bool = True
    no_learned_token: Literal["error", "drop"] = "error"

    @property
    def trains_attributes(self) -> bool:
        return self.conditioned


class RewardSettings(TrainSettings):
    """Masked regression on the attribute vector at the read-out position."""

    denominator: Literal["labels"] = "labels"
    head_init_std: float = 0.02

    @property
    def trains_attributes(self) -> bool:
        return True


class FaultSettings(Settings):
    """What a training does when something goes wrong. No result of a sound training depends on it: it takes no part in
    a stage's key."""

    collective_timeout_minutes: PositiveFloat = 3.0
    """How long processes wait for one that does not come, in a step or validation; in all slower work
    `STARTUP_TIMEOUT_MINUTES`, if that is longer."""
    non_finite: Literal["stop", "retry"] = "stop"
    """At a loss or gradient that is not finite: stop, or go back to the last checkpoint, once."""
    straggler_every: PositiveInt | None = 50
    """Steps between reports of the slowest process; null: none."""

    @property
    def startup_timeout_minutes(self) -> float:
        return max(STARTUP_TIMEOUT_MINUTES, self.collective_timeout_minutes)


class LayoutSettings(Settings):
    """Where a training job runs: `nodes` x `devices` processes, of which `tensor` x `pipeline` hold one model."""

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
    """Parameters of a gradient bucket, which travel together; null: 40 million, or a million per replica if more."""
    threads: PositiveInt | None = None
    """CPU threads per process; null: the machine's cores shared out."""

    @property
    def processes(self) -> int:
        return self.nodes * self.devices

    @property
    def data_parallel(self) -> int:
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
        """Raises `ConfigError` naming the size that the layout does not divide, and what divides the model."""
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
        return min(self.row_tokens or self.micro_batch * window, self.micro_batch * window)
