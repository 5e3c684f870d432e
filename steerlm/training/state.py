# SPDX-License-Identifier: Apache-2.0
"""How far a training has come: the state that a checkpoint carries, and the result that is left at the end."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from steerlm.errors import TrainingError


@dataclass
class TrainState:
    """JSON in a checkpoint. `run` names what must not change between a run and its resume."""

    run: dict[str, Any]
    step: int = 0
    consumed: int = 0
    tokens: int = 0
    computed: int = 0
    seconds: float = 0.0
    validated: int = 0
    """The last step whose weights were validated."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the last validation."""
    best_step: int | None = None
    best_loss: float | None = None
    best_metrics: dict[str, float] = field(default_factory=dict)

    def state(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def resumed(cls, state: dict[str, Any], run: dict[str, Any], where: str) -> "TrainState":
        """Raises `TrainingError` if the checkpoint is of another run: its sampler state would mean other units."""
        for name, found, value in _differences(state["run"], run):
            raise TrainingError(
                f"{where}: was made with another {name} ({found}, now {value}); "
                "remove the checkpoints or use another folder"
            )
        return cls(**{**state, "run": run})

    @property
    def real_token_share(self) -> float:
        return self.tokens / max(1, self.computed)


def _differences(found: dict[str, Any], wanted: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(name, found, wanted) of each leaf that differs."""
    for name, value in wanted.items():
        other = found.get(name)
        if isinstance(value, dict) and isinstance(other, dict):
            yield from _differences(other, value, f"{above}{name}.")
        elif other != value:
            yield f"{above}{name}", other, value


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a training came to.

    `exported_step`: whose weights the engine holds; `metrics`: of that step's validation, `last_metrics`: of the last.
    `counts`: what happened to the records of each set; `unused_units`: left at the end. `tokens`: real tokens trained
    on; `seconds`: of stepping and validating, over all resumes.
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
