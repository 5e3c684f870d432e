# SPDX-License-Identifier: Apache-2.0
"""The table of GPU types: looked up by device name and by key, with overridable and plausible constants."""

import dataclasses

import pytest
from pydantic import ValidationError

from steerlm.errors import ConfigError
from steerlm.training.hardware import GPUS, Gpu, GpuConstants, gpu_by_device_name, gpu_type


@pytest.mark.parametrize(
    ("device_name", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100-80"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
    ],
)
def test_a_type_is_looked_up_by_torchs_device_name(device_name: str, name: str) -> None:
    gpu = gpu_by_device_name(device_name)
    assert gpu is GPUS[name]


@pytest.mark.parametrize(
    "device_name", ["NVIDIA H100 PCIe", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA GeForce RTX 4090 Laptop GPU", ""]
)
def test_a_similar_device_name_does_not_match(device_name: str) -> None:
    assert gpu_by_device_name(device_name) is None


def test_an_unknown_type_lists_the_known_ones() -> None:
    assert gpu_type("h100") is GPUS["h100"]
    with pytest.raises(ConfigError, match=r"unknown GPU type 'a100'; known: h100, .*a100-80"):
        gpu_type("a100")


@pytest.mark.parametrize("gpu", GPUS.values(), ids=list(GPUS))
def test_nothing_is_faster_than_its_peak(gpu: Gpu) -> None:
    assert gpu.attention_flops < gpu.gemm_flops < gpu.peak_flops
    assert gpu.inter_node_bandwidth < gpu.intra_node_bandwidth < gpu.memory_bandwidth
    assert 100e12 < gpu.peak_flops < 3e15  # FLOP/s, not TFLOP/s


def test_constants_replace_the_tables() -> None:
    changed = GpuConstants(gemm_flops=700e12).applied(GPUS["h100"])
    assert changed == dataclasses.replace(GPUS["h100"], gemm_flops=700e12)
    assert GpuConstants().applied(changed) == changed


def test_every_speed_can_be_overridden() -> None:
    """Except the memory, which the profile overrides by `gpu_memory_gib`."""
    fields = {field.name for field in dataclasses.fields(Gpu)}
    assert set(GpuConstants.model_fields) == fields - {"name", "device_names", "memory_gib"}


@pytest.mark.parametrize("value", [0, -1])
def test_a_constant_is_positive(value: float) -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        GpuConstants(peak_flops=value)
