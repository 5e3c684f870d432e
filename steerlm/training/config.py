# SPDX-License-Identifier: Apache-2.0
"""The method of a training: settings of a recipe's sections. Imports no torch; where it runs is in `layout.py`.

Defaults are NeMo-Aligner's where it has one: `docs/upstream.md#training-defaults`, `docs/upstream.md#sft-defaults`.
"""

from typing import Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from steerlm.dropped import DEFAULT_LIMIT
from steerlm.models.shape import ModelShape
from steerlm.settings import Settings


class OptimizerSettings(Settings):
    """AdamW with decoupled decay (1-D parameters exempt), norm clipping, and the cosine schedule of `schedule.py`."""

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
    """Settings of every objective. Steps = min(max_steps, epochs * units / global_batch); one of them may be null."""

    max_steps: PositiveInt | None = None
    epochs: float | None = Field(default=None, gt=0)
    global_batch: PositiveInt = 64
    window: PositiveInt = 4096
    over_long: Literal["drop", "keep_end", "error"] = "drop"
    max_dropped: float = Field(default=DEFAULT_LIMIT, ge=0, le=1)
    """The largest share of a data set's records that may be dropped; more is an error."""
    precision: Literal["bf16", "fp32"] = "bf16"
    reduce_gradients: Literal["fp32", "bf16"] = "fp32"
    """Type in which gradients are summed over a step's rows and over replicas. bf16 (only with precision bf16) halves
    the gradient buffer and the bytes of its reduce-scatter, and rounds each partial sum to 8 bits."""
    seed: NonNegativeInt = 1234
    optimizer: OptimizerSettings = OptimizerSettings()
    validate_every: PositiveInt | None = None
    """Steps between validations; null: only at the end."""
    validation_batches: PositiveInt | None = None
    """Global batches per validation; null: all."""
    save_every: PositiveInt | None = None
    """Steps between checkpoints to resume from; null: only `save_minutes` counts."""
    save_minutes: PositiveFloat | None = None
    """Minutes between checkpoints to resume from, besides `save_every`. Both null: only at the end and on a
    termination signal."""
    keep: PositiveInt = 2
    """How many of the newest checkpoints are kept, besides the best."""
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
    """Plain language modeling. `shape` null: continue from the base model; given: start from random weights."""

    shape: ModelShape | None = None
    denominator: Literal["tokens"] = "tokens"

    @property
    def initial_shape(self) -> ModelShape | None:
        """Shape of the random initial weights; None to start from the base model."""
        return self.shape


class SFTSettings(TrainSettings):
    """Attribute-conditioned fine-tuning.

    `denominator: conversations` weighs conversations equally (the tutorial's micro-batch 1), `tokens` weighs learned
    tokens equally. `conditioned: false` drops every label, for a baseline.
    """

    denominator: Literal["conversations", "tokens"] = "conversations"
    conditioned: bool = True
    no_learned_token: Literal["error", "drop"] = "error"

    @property
    def trains_attributes(self) -> bool:
        """Whether prompts have labels; False for the baseline."""
        return self.conditioned


class RewardSettings(TrainSettings):
    """Masked regression on the attribute vector at the read-out position."""

    denominator: Literal["labels"] = "labels"
    head_init_std: float = 0.02

    @property
    def trains_attributes(self) -> bool:
        """True: the reward model rates every attribute that has labels."""
        return True
