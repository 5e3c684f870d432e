# SPDX-License-Identifier: Apache-2.0
"""Finds the slowest process of a training by exchanging a few numbers every N steps.

A process's own time is reading its rows and the forward pass of its part of the model. The time of a whole step is
the same everywhere, because processes wait for each other. A forward pass would also wait if it gathered the weights of
the last update, so a measured step gathers them before. Processes are compared within their pipeline stage, where all
have the same work. In a tensor-parallel group a forward pass includes waiting for the group's slowest process, so a
slow process shows up as a slow group.

megatron-core's StragglerDetector measures the same, but it needs CUDA and NVML, listens on a port of every interface,
and only prints.
"""

import logging
import statistics
from collections.abc import Callable

from steerlm.training.engine import Engine

SLOW = 1.2
"""Ratio to the median of its stage above which a process counts as slow."""
REPORTS = 3
"""Consecutive reports of the same slow process that turn the log line into a warning."""
log = logging.getLogger(__name__)


class Stragglers:
    """Measures every `every`-th step. `describe` names the host and process of a rank."""

    def __init__(self, engine: Engine, every: int | None, describe: Callable[[int], str]) -> None:
        self.engine, self.describe = engine, describe
        self.every = every if engine.layout.world_size > 1 else None
        self._steps = 0
        self._slow: list[int] = []

    def before_step(self) -> None:
        """Prepare the measurement of a step. Collective if the step is measured."""
        self._steps += 1
        if self._due:
            self.engine.gather_weights()
            self.engine.forward_seconds()

    def after_step(self, reading: float) -> dict[str, float]:
        """Log the slowest process and return its metrics, if the step was measured. Collective then.

        `reading`: seconds this process took to read its rows.
        """
        if not self._due:
            return {}
        layout = self.engine.layout
        own = [float(layout.stage), reading, self.engine.forward_seconds()]
        rank, ratio, text = slowest(self.engine.gather(own))
        self._slow = [*self._slow, rank][-REPORTS:] if ratio > SLOW else []
        if layout.rank == 0:
            again = len(self._slow) == REPORTS and len(set(self._slow)) == 1
            log.log(logging.WARNING if again else logging.INFO, "slowest: %s: %s", self.describe(rank), text)
        return {"train/slowest_rank": rank, "train/slowest_over_median": ratio}

    @property
    def _due(self) -> bool:
        return self.every is not None and self._steps % self.every == 0


def slowest(times: list[list[float]]) -> tuple[int, float, str]:
    """Return the slowest rank, the ratio of its time to the median of its stage, and both as text.

    `times`: (stage, reading, forward) of each rank, in seconds.
    """
    totals: dict[float, list[float]] = {}
    for stage, reading, forward in times:
        totals.setdefault(stage, []).append(reading + forward)
    # Of two, the lower: the mean would hide half of the slow one's time.
    median = {stage: max(statistics.median_low(seconds), 1e-9) for stage, seconds in totals.items()}
    ratios = [(reading + forward) / median[stage] for stage, reading, forward in times]
    rank = max(range(len(times)), key=ratios.__getitem__)
    stage, reading, forward = times[rank]
    text = (
        f"{ratios[rank]:.2f} times the median of its pipeline stage "
        f"(a step: reading {reading:.3f} s, forward pass {forward:.3f} s; median {median[stage]:.3f} s)"
    )
    return rank, ratios[rank], text
