# SPDX-License-Identifier: Apache-2.0
"""What the training loop drives: the `Engine` and `Objective` protocols. No implementation, no megatron.

`steerlm.megatron.engine.MegatronEngine` is the product; `tests/reference_engine.py` (transformers, AdamW) the oracle.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from steerlm.training.data import Row, RowTensors, Unit
from steerlm.training.packing import padded_length

if TYPE_CHECKING:
    import torch

    from steerlm.models.shape import ModelShape
    from steerlm.records import Line

Statistics = dict[str, "torch.Tensor"]
"""Additive fp64 tensors by name: summed over rows, micro-batches and data-parallel ranks. Shapes never vary."""


@dataclass(frozen=True, slots=True)
class Layout:
    """This process's place. `row_multiple`: rows are padded to a multiple of it (sequence parallelism needs TP).
    `stage`: of the pipeline.

    `equal_rows`: all rows of a replica's step are padded to its longest, so that the stages of a pipeline know the
    shape of what they receive without exchanging it.
    """

    dp_rank: int = 0
    dp_size: int = 1
    row_multiple: int = 1
    rank: int = 0
    world_size: int = 1
    stage: int = 0
    equal_rows: bool = False

    def padding(self, tokens: Iterable[int]) -> int:
        """What each row of a replica's step is padded to a multiple of; `tokens`: those of all its rows."""
        return padded_length(max(tokens), self.row_multiple) if self.equal_rows else self.row_multiple


class Objective(Protocol):
    """A loss, and how a record becomes what it is computed on.

    `counts` says what happened to the records seen so far: nothing is dropped or cut without being counted there.
    """

    counts: Counter[str]
    warnings: dict[str, str]
    """What was said once, by the name that `counts` has for it."""

    def warn_once(self, what: str, message: str) -> None:
        """Log it unless `what` was logged before."""

    @property
    def output(self) -> Literal["logprobs", "values"]:
        """What the model's head gives: next-token log-probabilities [T] fp32, or read-out values [K, A] fp32."""

    @property
    def record(self) -> "type[Line]":
        """The pydantic model of a line of its data."""

    def units(self, record: Any) -> Sequence[Unit]:
        """What the sampler may yield of one record; empty if it is dropped by a named policy. Raises `InputError`."""

    def units_of(self, records: Iterable[Any]) -> Iterator[Sequence[Unit]]:
        """The units of each record in turn, tokenized together. What a record, or reading it, raises comes in its
        place: after the units of all records before it."""

    def fingerprint(self) -> dict[str, Any]:
        """Everything `units` depends on besides the record, as JSON: settings, schema, a digest of the tokenizer."""

    def loss(self, output: "torch.Tensor", row: RowTensors) -> tuple["torch.Tensor", int, Statistics]:
        """Sum of the loss over the row (fp32 scalar), its denominator, and additive statistics."""

    def summarise(self, statistics: Mapping[str, "torch.Tensor"]) -> dict[str, float]:
        """Metrics of the summed statistics (Pearson is not a mean of means); undefined ones are left out."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """Sums over the whole global batch, equal on every rank. `grad_norm` is before clipping; 0 for an evaluation."""

    loss_sum: float
    count: int
    statistics: Statistics
    grad_norm: float = 0.0

    @property
    def loss(self) -> float:
        return self.loss_sum / max(1, self.count)


@dataclass(frozen=True, slots=True)
class SaveResult:
    """A checkpoint that is complete. `size`: bytes of this rank's file. Seconds: `blocked`, in which training waited
    for the copy to host memory; `writing`, in the background."""

    folder: Path
    size: int
    blocked: float
    writing: float


class Engine(Protocol):
    """A model with its optimizer on this process's share of the devices.

    `shape`, and `outputs` of its reward head if it has one: of the whole model. `device_name`: what the driver calls
    this process's accelerator, "cpu" without one.
    """

    layout: Layout
    shape: "ModelShape"
    outputs: int | None
    device_name: str

    def step(self, rows: Sequence[Row], objective: Objective, lr: float, count: int | None = None) -> StepResult:
        """Forward and backward over this rank's rows (equally many on every rank), one clipped update at `lr`.

        The gradient is that of sum(loss) / max(1, count), where `count` is the sum of the samples' counts over the
        global batch, known to every rank from the batch's plan. None: `rows` are the whole batch (one replica). Raises
        `NonFiniteError` on every rank, before the update, if the loss or the gradient norm is not finite; `ValueError`
        on every rank, before the update, if the rows of all replicas add up to another count.
        """

    def evaluate(self, rows: Sequence[Row], objective: Objective) -> StepResult:
        """The same sums without a gradient."""

    def agree(self, *flags: bool) -> tuple[bool, ...]:
        """Each True on every rank if it is True on any (a termination signal reaches ranks at other times)."""

    def set_timeout(self, minutes: float) -> None:
        """How long a collective may wait for a process that does not come. Collective itself, under the timeout that
        was set before."""

    def gather(self, values: Sequence[float]) -> list[list[float]]:
        """A few numbers of every rank, equally many, on all; collective."""

    def gather_weights(self) -> None:
        """Bring every replica's weights up to date with the last update, which a forward pass does by itself.
        Collective."""

    def forward_seconds(self) -> float:
        """Time of this process's forward passes in `step` since the last call, in seconds."""

    def save(self, folder: Path, state: Mapping[str, Any]) -> None:
        """Begin a checkpoint of weights, optimizer and the loop's `state` (JSON), after finishing the one before.

        Returns when the state is copied; it is written while training goes on. Raises `TrainingError` on every rank.
        """

    @property
    def saving(self) -> bool:
        """Whether this rank is still writing its part of a checkpoint."""

    def finish_save(self) -> "SaveResult | None":
        """Wait until the checkpoint that was begun is written on every rank, and mark it complete; None without one.
        Collective. Raises `TrainingError` on every rank if one could not write its part."""

    def state_of(self, folder: Path) -> dict[str, Any]:
        """The loop's state in a checkpoint, without its tensors."""

    def load(self, folder: Path) -> None:
        """Restore weights and optimizer from any layout's checkpoint."""

    def load_weights(self, folder: Path) -> None:
        """Restore the weights alone (to export a best checkpoint that is not the current one)."""

    def write_hf(self, folder: Path) -> None:
        """Write config-less safetensors shards and their index into `folder`, each rank its share; collective."""
