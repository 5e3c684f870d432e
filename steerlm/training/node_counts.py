# SPDX-License-Identifier: Apache-2.0
"""How many nodes to train on: the time model applied to a layout and to fewer nodes. Torch-free."""

from collections.abc import Sequence
from dataclasses import dataclass

from steerlm.models.shape import ModelShape
from steerlm.training.config import TrainSettings
from steerlm.training.footprint import USABLE_SHARE, Footprint, training_footprint
from steerlm.training.hardware import Gpu
from steerlm.training.layout import LayoutSettings
from steerlm.training.step_time import StepTime, Traffic, mfu, step_time, traffic

TOLERATED_SLOWDOWN = 0.2
"""How much slower than the fastest number of nodes a smaller number may be and still be preferred."""
ROWS_PER_STAGE = 2
"""With fewer rows per replica and pipeline stage, the pipeline idles and communication is hardly hidden."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Estimated times of a training on one layout.

    Attributes:
        time: Seconds of one update.
        traffic: Bytes sent for one update.
        hours: Wall-clock time of all updates, without validation, saving and startup; None if their number is unknown.
        gpu_hours: `hours` times the number of GPUs.
    """

    layout: LayoutSettings
    rows_per_replica: float
    time: StepTime
    traffic: Traffic
    mfu: float
    hours: float | None
    gpu_hours: float | None

    @property
    def nodes(self) -> int:
        """Number of nodes of the layout."""
        return self.layout.nodes


def estimate(
    shape: ModelShape, layout: LayoutSettings, outputs: int | None, gpu: Gpu, footprint: Footprint
) -> Estimate:
    """Estimate the times of the training with this footprint on this layout."""
    time = step_time(shape, layout, outputs, gpu, footprint)
    hours = None if footprint.steps is None else footprint.steps * time.total / 3600
    return Estimate(
        layout,
        footprint.rows_per_replica,
        time,
        traffic(shape, layout, footprint),
        mfu(footprint, gpu, time.total),
        hours,
        None if hours is None else hours * layout.processes,
    )


def estimate_node_counts(
    shape: ModelShape,
    settings: TrainSettings,
    layout: LayoutSettings,
    outputs: int | None,
    gpu: Gpu,
    lengths: Sequence[int] | None = None,
) -> list[Estimate]:
    """Estimate the layout, then the same tensor and pipeline sizes on half its nodes, a quarter, ... if memory allows.

    `lengths`: tokens per sample; None: every sample is a full window.
    """
    estimates: list[Estimate] = []
    while True:
        footprint = training_footprint(shape, settings, layout, outputs, lengths)
        if estimates and footprint.memory.total > USABLE_SHARE * gpu.memory_gib * 2**30:
            break
        estimates.append(estimate(shape, layout, outputs, gpu, footprint))
        nodes = layout.nodes // 2
        if not nodes or nodes * layout.devices % (layout.tensor * layout.pipeline):
            break
        layout = layout.model_copy(update={"nodes": nodes})
    return estimates


def fewest_nodes(estimates: Sequence[Estimate]) -> Estimate:
    """Return the estimate with the fewest nodes whose update takes at most 20 % longer than the fastest."""
    limit = (1 + TOLERATED_SLOWDOWN) * min(one.time.total for one in estimates)
    return min((one for one in estimates if one.time.total <= limit), key=lambda one: one.nodes)


def sufficient_rows(layout: LayoutSettings) -> int:
    """Return the rows per replica and step that keep a layout busy; 1 without communication of nodes or stages."""
    return 1 if layout.nodes == layout.pipeline == 1 else ROWS_PER_STAGE * layout.pipeline


def few_rows_mean_tokens(settings: TrainSettings, layout: LayoutSettings) -> float:
    """Return the mean sample length at and below which a replica gets fewer than `sufficient_rows`."""
    rows = sufficient_rows(layout) - 1
    return rows * layout.row_limit(settings.window) * layout.data_parallel / settings.global_batch
