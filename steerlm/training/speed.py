# SPDX-License-Identifier: Apache-2.0
"""Metrics of a step's speed: FLOP/s, share of the hardware's peak, and balance between replicas. Torch-free."""

from steerlm.models.shape import ModelShape
from steerlm.training.batches import Batch
from steerlm.training.footprint import flops_per_token
from steerlm.training.hardware import gpu_by_device_name


def speed_metrics(
    batch: Batch, seconds: float, processes: int, shape: ModelShape, outputs: int | None, device_name: str
) -> dict[str, float]:
    """Return the metrics of a step that took `seconds` on all `processes`.

    Returns:
        `tflops_per_gpu`: 10^12 model FLOPs per second and process, for real tokens and their attention; padding and
        recomputation do not count. `mfu`: the same as a share of the device's bf16 peak; left out for an unknown
        device. `row_imbalance`: FLOPs of the busiest replica, padding included, over the mean; as the others wait for
        it, 1.1 costs a tenth of the time.
    """

    def flops(tokens: int, squares: int) -> float:
        return flops_per_token(shape, outputs, squares / max(1, tokens)) * tokens

    costs = [flops(load.computed, load.squares) for load in batch.loads]
    rate = flops(batch.tokens, sum(load.squares for load in batch.loads)) / seconds / processes
    metrics = {"tflops_per_gpu": rate / 1e12, "row_imbalance": max(costs) * len(costs) / sum(costs)}
    gpu = gpu_by_device_name(device_name)
    return metrics if gpu is None else {**metrics, "mfu": rate / gpu.peak_flops}
