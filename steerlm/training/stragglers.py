# SPDX-License-Identifier: Apache-2.0
"""Which process is slower than the others: a few numbers exchanged every so many steps, never one per step.

A process's time is what it does by itself: reading its rows and the forward pass of its part of the model. A whole
step takes the same time on all, because they wait for each other. So would a forward pass that gathers the weights of
the last update, which are therefore gathered before it in a step that is measured. Processes are compared within their
pipeline stage, whose parts of the model are alike. In a tensor parallel group the forward pass holds waiting for the
slowest of the group, so one slow process shows as a slow group.

megatron-core's StragglerDetector measures the same but needs CUDA and NVML, listens on a port of every interface, and
only prints.
"""

import logging
import statistics
from collections.abc import Callable

from steerlm.training.engine import Engine

SLOW = 1.2
"""Times the median of its stage; above it in so many reports one after the other, a process is warned of."""
REPORTS = 3
log = logging.getLogger(__name__)


class Stragglers:
    """Measures every `every`-th step. `who`: says which machine and process a rank is."""

    def __init__(self, engine: Engine, every: int | None, who: Callable[[int], str]) -> None:
        self.engine, self.who = engine, who
        self.every = every if engine.layout.world_size > 1 else None
        self._steps = 0
        self._slow: list[int] = []

    def before_step(self) -> None:
        """Collective before a step that is measured."""
        self._steps += 1
        if self._due:
            self.engine.gather_weights()
            self.engine.forward_seconds()

    def after_step(self, reading: float) -> dict[str, float]:
        """After each step, with the seconds it took to read this process's rows; metrics of one that was measured.
        Collective then."""
        if not self._due:
            return {}
        layout = self.engine.layout
        own = [float(layout.stage), reading, self.engine.forward_seconds()]
        rank, ratio, text = slowest(self.engine.gather(own))
        self._slow = [*self._slow, rank][-REPORTS:] if ratio > SLOW else []
        if layout.rank == 0:
            again = len(self._slow) == REPORTS and len(set(self._slow)) == 1
            log.log(logging.WARNING if again else logging.INFO, "slowest: %s: %s", self.who(rank), text)
        return {"train/slowest_rank": rank, "train/slowest_over_median": ratio}

    @property
    def _due(self) -> bool:
        return self.every is not None and self._steps % self.every == 0


def slowest(times: list[list[float]]) -> tuple[int, float, str]:
    """(rank, its time over the median of its stage, both in words), of (stage, reading, forward) of each rank."""
    totals: dict[float, list[float]] = {}
    for stage, reading, forward in times:
        totals.setdefault(stage, []).append(reading + forward)
    # Of two, the lower: half of the slow one's time would hide in the mean.
    median = {stage: max(statistics.median_low(those), 1e-9) for stage, those in totals.items()}
    ratios = [(reading + forward) / median[stage] for stage, reading, forward in times]
    rank = max(range(len(times)), key=ratios.__getitem__)
    stage, reading, forward = times[rank]
    text = (
        f"{ratios[rank]:.2f} times the median of its pipeline stage "
        f"(a step: reading {reading:.3f} s, forward pass {forward:.3f} s; median {median[stage]:.3f} s)"
    )
    return rank, ratios[rank], text
