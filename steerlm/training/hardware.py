# SPDX-License-Identifier: Apache-2.0
"""GPU types and the speeds for time estimates and MFU: a table of constants, torch-free.

Sizes and peaks are from the vendor's data sheets, dense (no sparsity). Sustained figures are what large matrix
products, copies and collectives reach. For h100 they are 640 of 989 TFLOP/s (clocks fall under full load), 330
TFLOP/s of attention (FlashAttention-2 paper, H100), 2.6 of 3.35 TB/s, 380 of 450 GB/s a direction over NVLink and 42 of
50 GB/s of a 400 Gb/s port. Other types take the same shares of their own data sheet unless the table says otherwise.
None of the sustained figures was measured by this project: measure yours and set them in a profile's `gpu_constants`.
"""

import dataclasses
from dataclasses import dataclass

from pydantic import PositiveFloat

from steerlm.errors import ConfigError
from steerlm.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One type of GPU and what connects it. FLOP/s, bytes/s and seconds, all of one GPU."""

    name: str
    """Key of the table."""
    device_names: tuple[str, ...]
    """Its names as `torch.cuda.get_device_name()` returns them."""
    memory_gib: float
    """Memory that the driver reports, in GiB."""
    peak_flops: float
    """Dense bf16 FLOP/s with fp32 accumulation, from the data sheet; the denominator of MFU."""
    gemm_flops: float
    """FLOP/s that large bf16 matrix products sustain."""
    attention_flops: float
    """FLOP/s that flash attention sustains."""
    memory_bandwidth: float
    """Bytes/s, read and written together, that a kernel over a large tensor sustains."""
    intra_node_bandwidth: float
    """Bus bandwidth (nccl-tests' busbw), bytes/s, of collectives among GPUs of one node: NVLink, or PCIe."""
    inter_node_bandwidth: float
    """Bus bandwidth, bytes/s, of collectives among nodes: each GPU's share of the node's network ports."""
    kernel_seconds: float = 6e-6
    """Seconds to launch one kernel from Python, the least that a kernel takes."""


class GpuConstants(Settings):
    """Overrides of a `Gpu`'s values, in the same units. Null: the table's value."""

    peak_flops: PositiveFloat | None = None
    gemm_flops: PositiveFloat | None = None
    attention_flops: PositiveFloat | None = None
    memory_bandwidth: PositiveFloat | None = None
    intra_node_bandwidth: PositiveFloat | None = None
    inter_node_bandwidth: PositiveFloat | None = None
    kernel_seconds: PositiveFloat | None = None

    def applied(self, gpu: Gpu) -> Gpu:
        """Return the GPU with the given values replaced and the others kept."""
        return dataclasses.replace(gpu, **self.model_dump(exclude_none=True))


_TYPES = (
    Gpu(  # H100 SXM5: 989 TFLOP/s, 3.35 TB/s, NVLink 4, one 400 Gb/s port a GPU
        name="h100",
        device_names=("NVIDIA H100 80GB HBM3",),
        memory_gib=80,
        peak_flops=989e12,
        gemm_flops=640e12,
        attention_flops=330e12,
        memory_bandwidth=2.6e12,
        intra_node_bandwidth=380e9,
        inter_node_bandwidth=42e9,
    ),
    Gpu(  # H200 SXM: H100 with 141 GB at 4.8 TB/s
        name="h200",
        device_names=("NVIDIA H200",),
        memory_gib=140,
        peak_flops=989e12,
        gemm_flops=640e12,
        attention_flops=330e12,
        memory_bandwidth=3.7e12,
        intra_node_bandwidth=380e9,
        inter_node_bandwidth=42e9,
    ),
    Gpu(  # B200 (HGX): 2.25 PFLOP/s, 180 GB at 7.7 TB/s, NVLink 5, one 400 Gb/s port a GPU
        name="b200",
        device_names=("NVIDIA B200",),
        memory_gib=179,
        peak_flops=2250e12,
        gemm_flops=1450e12,
        attention_flops=750e12,
        memory_bandwidth=6.0e12,
        intra_node_bandwidth=760e9,
        inter_node_bandwidth=42e9,
    ),
    Gpu(  # A100 SXM4: 312 TFLOP/s, of which matrix products reach 80 %, attention 60 % (FlashAttention-2 paper); 2.04
        # TB/s, NVLink 3 (300 GB/s a direction), one 200 Gb/s port a GPU
        name="a100-80",
        device_names=("NVIDIA A100-SXM4-80GB",),
        memory_gib=80,
        peak_flops=312e12,
        gemm_flops=250e12,
        attention_flops=190e12,
        memory_bandwidth=1.6e12,
        intra_node_bandwidth=250e9,
        inter_node_bandwidth=21e9,
    ),
    Gpu(  # L40S: 362 TFLOP/s, 48 GB (with ECC) at 0.864 TB/s, PCIe 4 x16 (32 GB/s a direction), 200 Gb/s for two GPUs
        name="l40s",
        device_names=("NVIDIA L40S",),
        memory_gib=45,
        peak_flops=362e12,
        gemm_flops=234e12,
        attention_flops=120e12,
        memory_bandwidth=0.67e12,
        intra_node_bandwidth=20e9,
        inter_node_bandwidth=10e9,
    ),
    Gpu(  # GeForce RTX 4090: 165 TFLOP/s, 1.008 TB/s; PCIe 4 x16 without peer-to-peer copies, so through the host;
        # 25 Gb/s Ethernet between machines
        name="rtx-4090",
        device_names=("NVIDIA GeForce RTX 4090",),
        memory_gib=24,
        peak_flops=165e12,
        gemm_flops=107e12,
        attention_flops=55e12,
        memory_bandwidth=0.78e12,
        intra_node_bandwidth=12e9,
        inter_node_bandwidth=2.6e9,
    ),
)
GPUS = {gpu.name: gpu for gpu in _TYPES}
_BY_DEVICE_NAME = {device_name: gpu for gpu in _TYPES for device_name in gpu.device_names}


def gpu_by_device_name(device_name: str) -> Gpu | None:
    """Return the entry for a name from `torch.cuda.get_device_name()`; None if the type is not in the table.

    The whole name must match: an H100 PCIe or a slice of a GPU ("... MIG 1g.10gb") has other speeds.
    """
    return _BY_DEVICE_NAME.get(device_name)


def gpu_type(name: str) -> Gpu:
    """Return an entry by its key. Raises `ConfigError` that lists the known types."""
    if name not in GPUS:
        raise ConfigError(f"unknown GPU type {name!r}; known: {', '.join(GPUS)}")
    return GPUS[name]
