# SPDX-License-Identifier: Apache-2.0
"""The state of a training that its checkpoints carry, and the result it ends with."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from steerlm.errors import TrainingError


@dataclass
class TrainState:
    """Progress of a training, stored as JSON in its checkpoints.

    Attributes:
        run: What must not change between a run and its resume: seed, global batch, objective, data.
        step: Updates so far.
        consumed: Units consumed so far; with the seed, the state of the sampler.
        tokens: Tokens trained on, without padding.
        computed: Tokens computed, with padding.
        seconds: Time of steps and validations.
        validated: The last step whose weights were validated.
        metrics: Metrics of the last validation.
        best_step: Step of the best validation loss, its loss and its metrics.
    """

    run: dict[str, Any]
    step: int = 0
    consumed: int = 0
    tokens: int = 0
    computed: int = 0
    seconds: float = 0.0
    validated: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    best_step: int | None = None
    best_loss: float | None = None
    best_metrics: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the fields as a dictionary of plain JSON values."""
        return asdict(self)

    @classmethod
    def resumed(cls, state: dict[str, Any], run: dict[str, Any], source: str) -> "TrainState":
        """Restore the state of a checkpoint, which `source` names in errors.

        Raises `TrainingError` if it belongs to another run, in which its sampler state would mean other units.
        """
        for name, saved, current in _differences(state["run"], run):
            raise TrainingError(
                f"{source}: was made with another {name} ({saved}, now {current}); "
                "remove the checkpoints or use another folder"
            )
        return cls(**{**state, "run": run})

    @property
    def real_token_share(self) -> float:
        """Share of computed tokens that were not padding, 0..1; 0 before the first step."""
        return self.tokens / max(1, self.computed)


def _differences(saved: dict[str, Any], current: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (dotted name, saved value, current value) of each leaf that differs."""
    for name, value in current.items():
        other = saved.get(name)
        if isinstance(value, dict) and isinstance(other, dict):
            yield from _differences(other, value, f"{prefix}{name}.")
        elif other != value:
            yield f"{prefix}{name}", other, value


@dataclass(frozen=True, slots=True)
class TrainResult:
    """The outcome of a training.

    Attributes:
        steps: Updates in total.
        exported_step: The step whose weights the engine holds.
        metrics: Validation metrics of `exported_step`.
        last_metrics: Metrics of the last validation.
        counts: What happened to the records of each data set.
        unused_units: Units at the end that fill no global batch.
        tokens: Tokens trained on, without padding.
        seconds: Time of steps and validations, over all resumes.
    """

    steps: int
    exported_step: int
    best_step: int | None
    best_loss: float | None
    metrics: dict[str, float]
    last_metrics: dict[str, float]
    counts: dict[str, dict[str, int]]
    unused_units: int
    tokens: int
    real_token_share: float
    seconds: float
