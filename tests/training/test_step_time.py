# SPDX-License-Identifier: Apache-2.0
"""The time model against cases computed by hand; what recomputation, links and kernels change."""

import dataclasses
from typing import Any, Literal

import pytest

from steerlm.models.public import SHAPES
from steerlm.training.config import RewardSettings, SFTSettings
from steerlm.training.footprint import training_footprint
from steerlm.training.hardware import GPUS, Gpu
from steerlm.training.layout import LayoutSettings
from steerlm.training.step_time import StepTime, Traffic, mfu, step_time, traffic

H100 = GPUS["h100"]
LLAMA13, LLAMA70, LLAMA3 = (
    SHAPES[f"meta-llama/{name}"] for name in ("Llama-2-13b-hf", "Llama-2-70b-hf", "Meta-Llama-3-70B")
)
REDUCTIONS: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
SMALL = SHAPES["HuggingFaceTB/SmolLM2-360M"]


def test_the_13b_reward_model_on_32_nodes() -> None:
    """TP4 x DP64 with sequence parallelism: 4 rows of 8,192 tokens, 40 layers of width 5,120, 40 heads of 128."""
    layout = LayoutSettings(nodes=32, devices=8, tensor=4, micro_batch=2, sequence_parallel=True)
    footprint = training_footprint(LLAMA13, RewardSettings(max_steps=800, global_batch=512), layout, 9)
    time, sent = step_time(LLAMA13, layout, 9, H100, footprint), traffic(LLAMA13, layout, footprint)

    tokens = 8192
    matrices = (4 * 5120 * 5120 + 3 * 5120 * 13824) / 4
    products = 2 * matrices * tokens / (640e12 * tokens / (tokens + 350))
    attention = 2 * tokens * 4096 * (40 * 128 / 4) / 330e12
    # bf16: two norms, two residual sums, the query copied; query and key rotated; the gated activation
    around = 2 * tokens * (4 * 1280 + 6 * 1280 + 2 * 1280 + 5 * (1280 + 1280) + 5 * 3456)
    forward = products + attention + around / 2.6e12
    around_back = 2 * tokens * (8 * 1280 + 4 * 1280 + 5 * (1280 + 1280) + 11 * 3456) + 10 * matrices
    backward = 2 * products + 2.5 * attention + around_back / 2.6e12
    assert time.compute == pytest.approx(4 * 40 * (forward + backward))

    # Bytes of one all-reduce. Backward: its two, and two gatherings (half of one each) of inputs; the same half of its
    # two, the gathering of the outputs' gradients, is not hidden.
    all_reduce = 2 * 3 / 4 * tokens * 5120 * 2
    assert sent.tensor == pytest.approx(4 * 40 * (2 + 3) * all_reduce)
    assert time.tensor == pytest.approx(4 * 40 * (2 + 1) * all_reduce / 380e9)
    assert (time.pipeline, sent.pipeline) == (0, 0)

    embedding, norms, head = 32000 * 5120 / 4, 40 * 2 * 5120 + 5120, 9 * 5120
    held = 40 * matrices + embedding + norms + head
    assert (sent.gradients, sent.parameters) == pytest.approx((held * 4 * 63 / 64, held * 2 * 63 / 64))
    # Two members of a replica group in each node have two network ports: 151 ms behind 0.9 of a row's backward pass.
    assert sent.gradients / (2 * 42e9) < 0.9 * 40 * backward
    assert (time.gradients, time.parameters) == (0, 0)
    assert time.optimizer == pytest.approx(held * 8 / 2.6e12 + held / 64 * 40 / 2.6e12 + 3e-3)
    assert time.host == 4e-3
    assert time.total == sum(dataclasses.astuple(time)) == pytest.approx(1.500, abs=5e-4)

    flops = 6 * (4 * 40 * matrices + norms + head) + 6 * 40 * 5120 * 4096  # per token
    assert mfu(footprint, H100, time.total) == pytest.approx(flops * 512 * 4096 / 256 / time.total / 989e12)


def test_the_70b_policy_on_32_nodes() -> None:
    """TP8 x PP2 x DP16 with sequence parallelism: 8 rows of 4,096 tokens, 40 layers of width 8,192 per stage.

    64 heads of 128 in 8 groups.
    """
    layout = LayoutSettings(nodes=32, devices=8, tensor=8, pipeline=2, sequence_parallel=True)
    footprint = training_footprint(LLAMA70, SFTSettings(max_steps=800, global_batch=128), layout, None)
    time, sent = step_time(LLAMA70, layout, None, H100, footprint), traffic(LLAMA70, layout, footprint)

    tokens = 4096
    matrices = (8192 * 128 * (64 + 64 + 8 + 8) + 3 * 8192 * 28672) / 8
    speed = 0.94 * 640e12 * tokens / (tokens + 350)
    products, attention = 2 * matrices * tokens / speed, 2 * tokens * 4096 * 1024 / 330e12
    around = 2 * tokens * (4 * 1024 + 6 * 1024 + 2 * 1024 + 5 * (1024 + 128) + 5 * 3584)
    around_back = 2 * tokens * (8 * 1024 + 4 * 1024 + 5 * (1024 + 128) + 11 * 3584) + 10 * matrices
    exposed = 2 * 7 / 8 * tokens * 8192 * 2 / 380e9  # of one all-reduce
    forward = 40 * (products + attention + around / 2.6e12 + 2 * exposed)
    backward = 40 * (2 * products + 2.5 * attention + around_back / 2.6e12 + exposed)
    scores = tokens * 32000 / 8
    head = 6 * scores * 8192 / speed + 40 * scores / 2.6e12
    row = forward + backward + head
    transfers = 2 * (tokens * 8192 * 2 / 8) / 42e9
    assert time.tensor == pytest.approx(8 * 40 * 3 * exposed)
    assert time.compute == pytest.approx(8 * row - time.tensor)
    assert time.pipeline == pytest.approx((row + transfers) + 8 * transfers)
    assert sent.pipeline == 8 * tokens * 8192 * 2 / 8

    held = 40 * (matrices + 2 * 8192) + 32000 * 8192 / 8 + 8192
    assert time.gradients == pytest.approx(held * 4 * 15 / 16 / 42e9 - 0.9 * (backward + head))
    assert time.parameters == pytest.approx(held * 2 * 15 / 16 / 42e9 - 0.9 * forward)
    assert time.optimizer == pytest.approx(held * 8 / 2.6e12 + held / 16 * 40 / 2.6e12 + 3e-3)
    assert time.total == pytest.approx(2.803, abs=5e-4)
    assert round(mfu(footprint, H100, time.total), 3) == 0.316


def test_the_70b_reward_model_on_8_nodes_with_full_recomputation() -> None:
    """TP8 x PP2 x DP4 without sequence parallelism: 32 rows of 4,096 tokens."""
    layout = LayoutSettings(nodes=8, devices=8, tensor=8, pipeline=2, recompute="full")
    footprint = training_footprint(LLAMA3, RewardSettings(max_steps=317, global_batch=128), layout, 9)
    time, sent = step_time(LLAMA3, layout, 9, H100, footprint), traffic(LLAMA3, layout, footprint)

    tokens = 4096
    matrices = (8192 * 128 * (64 + 64 + 8 + 8) + 3 * 8192 * 28672) / 8
    products = 2 * matrices * tokens / (0.94 * 640e12 * tokens / (tokens + 350))
    attention = 2 * tokens * 4096 * 1024 / 330e12
    around = 2 * tokens * (4 * 8192 + 6 * 8192 + 2 * 1024 + 5 * (1024 + 128) + 5 * 3584)
    around_back = 2 * tokens * (8 * 8192 + 4 * 8192 + 5 * (1024 + 128) + 11 * 3584) + 10 * matrices
    all_reduce = 2 * 7 / 8 * tokens * 8192 * 2
    forward = products + attention + around / 2.6e12
    backward = 2 * products + 2.5 * attention + around_back / 2.6e12
    assert time.compute == pytest.approx(32 * 40 * (2 * forward + backward))
    # The forward pass twice; the weight gradients' products hide 85 % of the backward pass's two all-reduces.
    assert time.tensor == pytest.approx(32 * 40 * (2 + 2 + 2 * 0.15) * all_reduce / 380e9)
    assert sent.tensor == pytest.approx(32 * 40 * (2 + 2 + 2) * all_reduce)
    transfers = 2 * tokens * 8192 * 2 / 42e9
    assert time.pipeline == pytest.approx((time.compute + time.tensor) / 32 + 33 * transfers)


def test_one_gpu_sends_nothing() -> None:
    """SmolLM2-360M, 32 layers of width 960, 15 heads of 64 in 5 groups: 16 rows of 8,192 tokens, tied embeddings."""
    layout = LayoutSettings(micro_batch=4)
    footprint = training_footprint(SMALL, SFTSettings(max_steps=1, global_batch=64, window=2048), layout, None)
    time = step_time(SMALL, layout, None, H100, footprint)
    assert traffic(SMALL, layout, footprint) == Traffic(0, 0, 0, 0)
    assert (time.tensor, time.pipeline, time.gradients, time.parameters) == (0, 0, 0, 0)

    tokens = 8192
    matrices = 960 * 64 * (15 + 15 + 5 + 5) + 3 * 960 * 2560
    speed = 640e12 * tokens / (tokens + 350)
    products, attention = 2 * matrices * tokens / speed, 2 * tokens * 2048 * 960 / 330e12
    around = 2 * tokens * (4 * 960 + 6 * 960 + 2 * 960 + 5 * (960 + 320) + 5 * 2560)
    around_back = 2 * tokens * (8 * 960 + 4 * 960 + 5 * (960 + 320) + 11 * 2560) + 10 * matrices
    layer = products + attention + around / 2.6e12 + 2 * products + 2.5 * attention + around_back / 2.6e12
    head = 6 * tokens * 49152 * 960 / speed + 40 * tokens * 49152 / 2.6e12
    assert time.compute == pytest.approx(16 * (32 * layer + head))
    held = 32 * (matrices + 2 * 960) + 960 + 49152 * 960
    assert time.optimizer == pytest.approx(held * (8 + 40) / 2.6e12 + 3e-3)


def test_short_rows_take_as_long_as_launching_their_kernels() -> None:
    layout = LayoutSettings()
    footprint = training_footprint(SMALL, SFTSettings(max_steps=1, global_batch=1, window=32), layout, 9)
    assert step_time(SMALL, layout, 9, H100, footprint).compute == pytest.approx(32 * (27 + 52) * 6e-6)
    slow = dataclasses.replace(H100, kernel_seconds=1e-3)
    assert step_time(SMALL, layout, 9, slow, footprint).compute == pytest.approx(32 * (27 + 52) * 1e-3)


def _time(gpu: Gpu = H100, reduce: Literal["fp32", "bf16"] = "fp32", **layout: Any) -> tuple[StepTime, Traffic]:
    """Return time and traffic of the 13B reward model."""
    placed = LayoutSettings(**layout)
    footprint = training_footprint(
        LLAMA13, RewardSettings(max_steps=1, global_batch=512, reduce_gradients=reduce), placed, 9
    )
    return step_time(LLAMA13, placed, 9, gpu, footprint), traffic(LLAMA13, placed, footprint)


def test_selective_recomputation_repeats_attention() -> None:
    none, selective = (_time(nodes=32, devices=8, tensor=4, recompute=how)[0] for how in ("none", "selective"))
    again = 2 * 4096 * 4096 * 1280 / 330e12 + 2 * 4096 * 5 * 2560 / 2.6e12
    assert selective.compute - none.compute == pytest.approx(8 * 40 * again)
    assert selective.tensor == none.tensor


def test_transformer_engine_adds_to_the_fp32_buffer_within_the_product() -> None:
    ours, theirs = (_time(nodes=32, devices=8, tensor=4, attention=which)[0] for which in ("sdpa", "te"))
    matrices = (4 * 5120 * 5120 + 3 * 5120 * 13824) / 4
    assert ours.compute - theirs.compute == pytest.approx(8 * 40 * 10 * matrices / 2.6e12)


@pytest.mark.parametrize(
    ("layout", "bandwidth"),
    [
        ({"nodes": 1, "devices": 8}, 380e9),  # within a node
        ({"nodes": 2, "devices": 8, "tensor": 8}, 42e9),  # one member in each node
        ({"nodes": 2, "devices": 8, "tensor": 4}, 2 * 42e9),  # two members, two ports
        ({"nodes": 2, "devices": 8}, 8 * 42e9),
        ({"nodes": 2, "devices": 8, "tensor": 4, "pipeline": 2}, 380e9),  # a stage is a node
    ],
)
def test_replicas_use_the_ports_of_all_members_in_a_node(layout: dict[str, Any], bandwidth: float) -> None:
    """Links are a million times slower, so that reducing fp32 and bf16 gradients outlasts the backward pass."""
    slow = dataclasses.replace(H100, intra_node_bandwidth=380e3, inter_node_bandwidth=42e3)
    (full, sent), (half, sent_half) = (_time(slow, how, **layout) for how in REDUCTIONS)
    assert sent_half.gradients == sent.gradients / 2 == sent.parameters
    assert full.gradients - half.gradients == pytest.approx(sent_half.gradients / (bandwidth / 1e6), rel=1e-5)
    assert half.parameters == full.parameters


def test_tensor_parallelism_beyond_a_node_uses_the_network() -> None:
    within, across = (_time(nodes=16 // devices, devices=devices, tensor=4)[0] for devices in (8, 2))
    assert across.tensor / within.tensor == pytest.approx(380 / 42)


def test_a_stage_boundary_within_a_node_uses_its_links() -> None:
    time, _ = _time(devices=8, pipeline=8)
    transfers = 2 * 4096 * 5120 * 2 / 380e9
    row = time.compute / 512
    assert time.pipeline == pytest.approx(7 * (row + transfers) + 512 * transfers)


def test_a_middle_stage_sends_forward_and_back() -> None:
    _, sent, *_ = _time(nodes=4, devices=8, tensor=8, pipeline=4)
    assert sent.pipeline == 512 * 2 * 4096 * 5120 * 2


def test_bf16_gradients_halve_the_buffer_that_rows_are_added_to() -> None:
    """Per row and weight 4 bytes less are read and written, and 4 less for the norm and zeroing."""
    (full, _), (half, _) = (_time(H100, how, nodes=32, devices=8, tensor=4) for how in REDUCTIONS)
    matrices = (4 * 5120 * 5120 + 3 * 5120 * 13824) / 4
    assert full.compute - half.compute == pytest.approx(8 * 40 * 4 * matrices / 2.6e12)
    held = 40 * (matrices + 2 * 5120) + 32000 * 5120 / 4 + 5120 + 9 * 5120
    assert full.optimizer - half.optimizer == pytest.approx(held * 4 / 2.6e12)
