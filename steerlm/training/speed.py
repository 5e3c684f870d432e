# SPDX-License-Identifier: Apache-2.0
"""How fast a step was: FLOP/s, the share of the hardware's peak, and how even the replicas' loads were. Torch-free."""

from steerlm.models.shape import ModelShape
from steerlm.training.batches import Batch
from steerlm.training.footprint import flops_per_token
from steerlm.training.hardware import gpu_named


def speed(
    work: Batch, seconds: float, processes: int, shape: ModelShape, outputs: int | None, device_name: str
) -> dict[str, float]:
    """Metrics of a step that took `seconds` on all `processes` together.

    `tflops_per_gpu`: 10^12 model FLOPs per second and process, of real tokens and their attention, without padding and
    without what recomputation adds. `mfu`: the same as a share of the device's bf16 peak; left out for a device whose
    peak is not known. `row_imbalance`: FLOPs of the replica that has most to compute, padding included, over the mean;
    the others wait for it, so 1.1 costs a tenth.
    """

    def flops(tokens: int, squares: int) -> float:
        return flops_per_token(shape, outputs, squares / max(1, tokens)) * tokens

    costs = [flops(load.computed, load.squares) for load in work.loads]
    rate = flops(work.tokens, sum(load.squares for load in work.loads)) / seconds / processes
    metrics = {"tflops_per_gpu": rate / 1e12, "row_imbalance": max(costs) * len(costs) / sum(costs)}
    gpu = gpu_named(device_name)
    return metrics if gpu is None else {**metrics, "mfu": rate / gpu.peak_flops}
