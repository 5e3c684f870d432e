# SPDX-License-Identifier: Apache-2.0
"""What the training loop drives: the `Engine` and `Objective` protocols. No implementation, no megatron, no torch.

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
    """This process's rank in every dimension of the layout, and how its rows are padded.

    Attributes:
        dp_rank: Data-parallel rank, of `dp_size`.
        row_multiple: Rows are padded to a multiple of it; sequence parallelism requires the tensor-parallel size.
        rank: Global rank, of `world_size`.
        stage: Pipeline stage.
        equal_rows: Pad all rows of a replica's step to its longest, so that pipeline stages know the shape of what
            they receive without exchanging it.
    """

    dp_rank: int = 0
    dp_size: int = 1
    row_multiple: int = 1
    rank: int = 0
    world_size: int = 1
    stage: int = 0
    equal_rows: bool = False

    def padding(self, tokens: Iterable[int]) -> int:
        """Return the multiple that each row of a replica's step is padded to, given the tokens of all its rows."""
        return padded_length(max(tokens), self.row_multiple) if self.equal_rows else self.row_multiple


class Objective(Protocol):
    """A loss, and how a record becomes the samples that it is computed on."""

    counts: Counter[str]
    """What happened to the records so far. Nothing is dropped or cut without being counted here."""
    warnings: dict[str, str]
    """Messages logged so far, by their name in `counts`."""

    def warn_once(self, name: str, message: str) -> None:
        """Log `message`, unless a message of that name was logged before."""

    @property
    def output(self) -> Literal["logprobs", "values"]:
        """Output of the model's head: next-token log-probabilities [T] fp32, or read-out values [K, A] fp32."""

    @property
    def record(self) -> "type[Line]":
        """The pydantic model of one line of its data."""

    def units(self, records: Iterable[Any]) -> Iterator[Sequence[Unit]]:
        """Yield the units of each record, none if a policy drops it. All records are tokenized together.

        An error of a record (`InputError`), or of reading it, is raised after the units of the records before it.
        """

    def fingerprint(self) -> dict[str, Any]:
        """Return everything `units` depends on besides the record, as JSON: settings, schema, tokenizer digest."""

    def loss(self, output: "torch.Tensor", row: RowTensors) -> tuple["torch.Tensor", int, Statistics]:
        """Return the sum of the loss over the row (fp32 scalar), its denominator, and additive statistics."""

    def summarize(self, statistics: Mapping[str, "torch.Tensor"]) -> dict[str, float]:
        """Return metrics computed from summed statistics (Pearson is not a mean of means), without undefined ones."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """Sums over the whole global batch, equal on every rank. `grad_norm`: before clipping; 0 for an evaluation."""

    loss_sum: float
    count: int
    statistics: Statistics
    grad_norm: float = 0.0

    @property
    def loss(self) -> float:
        """Mean loss: `loss_sum` over `count`; 0 / 1 for an empty count."""
        return self.loss_sum / max(1, self.count)


@dataclass(frozen=True, slots=True)
class SaveResult:
    """A complete checkpoint.

    Attributes:
        size: Bytes of this rank's file.
        blocked: Seconds in which training waited for the copy to host memory.
        writing: Seconds of writing in the background.
    """

    folder: Path
    size: int
    blocked: float
    writing: float


class Engine(Protocol):
    """A model with its optimizer on this process's share of the devices.

    Attributes:
        shape: Shape of the whole model.
        outputs: Values of its reward head; None for a vocabulary head.
        device_name: Name of this process's accelerator as the driver reports it; "cpu" without one.
    """

    layout: Layout
    shape: "ModelShape"
    outputs: int | None
    device_name: str

    def step(self, rows: Sequence[Row], objective: Objective, lr: float, count: int | None = None) -> StepResult:
        """Run forward and backward over this rank's rows, then one clipped update at learning rate `lr`. Collective.

        The gradient is that of sum(loss) / max(1, count).

        Args:
            rows: Equally many on every rank.
            count: Sum of the samples' counts over the global batch, which every rank knows from the batch's plan;
                None if `rows` are the whole batch (one replica).

        Raises:
            NonFiniteError: The loss or the gradient norm is not finite; on every rank, before the update.
            ValueError: The rows of all replicas add up to another count; on every rank, before the update.
        """

    def evaluate(self, rows: Sequence[Row], objective: Objective) -> StepResult:
        """Return the same sums without computing a gradient. Collective."""

    def agree(self, *flags: bool) -> tuple[bool, ...]:
        """Return each flag as True on every rank if it is True on any. Collective."""

    def set_timeout(self, minutes: float) -> None:
        """Set how long a collective waits for a missing process. Collective, under the previous timeout."""

    def gather(self, values: Sequence[float]) -> list[list[float]]:
        """Return the values of every rank, equally many from each. Collective."""

    def gather_weights(self) -> None:
        """Update every replica's weights after the last step, as the next forward pass would. Collective."""

    def forward_seconds(self) -> float:
        """Return the seconds of this process's forward passes in `step` since the last call."""

    def save(self, folder: Path, state: Mapping[str, Any]) -> None:
        """Start a checkpoint of weights, optimizer and the loop's `state` (JSON), after finishing the previous one.

        Returns once the state is copied; a thread writes it while training continues. Collective. Raises
        `TrainingError` on every rank.
        """

    @property
    def saving(self) -> bool:
        """Whether this rank is still writing its part of a checkpoint."""

    def finish_save(self) -> "SaveResult | None":
        """Wait until every rank has written the started checkpoint and mark it complete; None if none was started.

        Collective. Raises `TrainingError` on every rank if one could not write its part.
        """

    def read_state(self, folder: Path) -> dict[str, Any]:
        """Return the loop's state in a checkpoint, without reading its tensors."""

    def load(self, folder: Path) -> None:
        """Restore weights and optimizer from a checkpoint of any layout. Collective."""

    def load_weights(self, folder: Path) -> None:
        """Restore only the weights, to export a checkpoint other than the current step. Collective."""

    def write_hf(self, folder: Path) -> list[Path]:
        """Write safetensors shards and their index into `folder`, each rank its share; no config. Collective.

        Returns:
            The files that this rank has written.
        """
