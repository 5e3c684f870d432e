# SPDX-License-Identifier: Apache-2.0
"""On how many nodes to train: the time model applied to a training on its own layout and on fewer nodes. Torch-free."""

from collections.abc import Sequence
from dataclasses import dataclass

from steerlm.models.shape import ModelShape
from steerlm.training.config import TrainSettings
from steerlm.training.footprint import ROOM, Needs, needs
from steerlm.training.hardware import Gpu
from steerlm.training.layout import LayoutSettings
from steerlm.training.step_time import StepTime, Traffic, mfu, step_time, traffic

SLOWER = 0.2
"""How much slower than the fastest number of nodes a smaller one may be to be preferred."""
ROWS_PER_STAGE = 2
"""With fewer rows per replica and pipeline stage, the pipeline idles and little hides what replicas exchange."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A training on one layout: seconds and bytes of an update, wall-clock and GPU hours of all. The hours are without
    validation, saving and start-up; None: the number of steps is not known."""

    layout: LayoutSettings
    rows_per_replica: float
    time: StepTime
    traffic: Traffic
    mfu: float
    hours: float | None
    gpu_hours: float | None

    @property
    def nodes(self) -> int:
        return self.layout.nodes


def estimate(shape: ModelShape, layout: LayoutSettings, outputs: int | None, gpu: Gpu, need: Needs) -> Estimate:
    """`need`: of this training on this layout."""
    time = step_time(shape, layout, outputs, gpu, need)
    hours = None if need.steps is None else need.steps * time.total / 3600
    return Estimate(
        layout,
        need.rows_per_replica,
        time,
        traffic(shape, layout, need),
        mfu(need, gpu, time.total),
        hours,
        None if hours is None else hours * layout.processes,
    )


def estimates(
    shape: ModelShape,
    settings: TrainSettings,
    layout: LayoutSettings,
    outputs: int | None,
    gpu: Gpu,
    lengths: Sequence[int] | None = None,
) -> list[Estimate]:
    """On the layout, and with the same tensor and pipeline on half its nodes, a quarter ... as long as memory allows.
    `lengths`: tokens per sample; None: every sample is a full window."""
    found: list[Estimate] = []
    while True:
        need = needs(shape, settings, layout, outputs, lengths)
        if found and need.memory.total > ROOM * gpu.memory_gib * 2**30:
            break
        found.append(estimate(shape, layout, outputs, gpu, need))
        nodes = layout.nodes // 2
        if not nodes or nodes * layout.devices % (layout.tensor * layout.pipeline):
            break
        layout = layout.model_copy(update={"nodes": nodes})
    return found


def fewest_nodes(found: Sequence[Estimate]) -> Estimate:
    """The smallest number of nodes whose update takes at most 20 % longer than the fastest one's."""
    fastest = min(one.time.total for one in found)
    return min((one for one in found if one.time.total <= (1 + SLOWER) * fastest), key=lambda one: one.nodes)


def rows_wanted(layout: LayoutSettings) -> int:
    """Rows per replica and step that keep a layout busy; 1 where nothing is exchanged among nodes or stages."""
    return 1 if layout.nodes == layout.pipeline == 1 else ROWS_PER_STAGE * layout.pipeline


def fewest_mean_tokens(settings: TrainSettings, layout: LayoutSettings) -> float:
    """Mean length of the samples at and below which a replica gets fewer rows than wanted."""
    rows = rows_wanted(layout) - 1
    return rows * layout.row_limit(settings.window) * layout.data_parallel / settings.global_batch
