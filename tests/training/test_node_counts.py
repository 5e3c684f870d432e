# SPDX-License-Identifier: Apache-2.0
"""Fewer nodes: which are estimated, which is the fewest within 20 % of the fastest, when rows are too few."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from steerlm.models.public import SHAPES
from steerlm.training.config import RewardSettings, SFTSettings
from steerlm.training.footprint import training_footprint
from steerlm.training.hardware import GPUS
from steerlm.training.layout import LayoutSettings
from steerlm.training.node_counts import (
    Estimate,
    estimate_node_counts,
    few_rows_mean_tokens,
    fewest_nodes,
    sufficient_rows,
)
from steerlm.training.step_time import StepTime, Traffic, step_time

H100 = GPUS["h100"]
LLAMA13, LLAMA70 = SHAPES["meta-llama/Llama-2-13b-hf"], SHAPES["meta-llama/Llama-2-70b-hf"]
REWARD = RewardSettings(max_steps=800, global_batch=512)
TUTORIAL13 = LayoutSettings(nodes=32, devices=8, tensor=4, micro_batch=2, sequence_parallel=True)
TUTORIAL70 = LayoutSettings(nodes=32, devices=8, tensor=8, pipeline=2, sequence_parallel=True)


def _took(nodes: int, seconds: float) -> Estimate:
    time = StepTime(seconds, 0, 0, 0, 0, 0, 0)
    return Estimate(LayoutSettings(nodes=nodes), 1, time, Traffic(0, 0, 0, 0), 0.5, None, None)


@pytest.mark.parametrize(
    ("seconds", "nodes"),
    [
        ({8: 1.0, 4: 1.2, 2: 1.21, 1: 4.0}, 4),
        ({8: 1.0, 4: 1.3, 2: 1.19}, 2),
        ({8: 1.0, 4: 2.0}, 8),
        ({8: 1.3, 4: 1.0, 2: 1.25}, 4),  # the profile itself is not the fastest
        ({1: 3.0}, 1),
    ],
)
def test_the_fewest_nodes_within_a_fifth_of_the_fastest(seconds: dict[int, float], nodes: int) -> None:
    assert fewest_nodes([_took(*pair) for pair in seconds.items()]).nodes == nodes


def _nodes(estimates: Sequence[Estimate]) -> list[int]:
    return [one.nodes for one in estimates]


def test_nodes_are_halved_as_long_as_memory_allows() -> None:
    estimates = estimate_node_counts(LLAMA70, SFTSettings(max_steps=800, global_batch=128), TUTORIAL70, None, H100)
    assert _nodes(estimates) == [32, 16, 8, 4]  # on 2 nodes one process would hold the whole optimizer: 48 GiB of it
    assert {(one.layout.tensor, one.layout.pipeline) for one in estimates} == {(8, 2)}
    assert [one.layout.data_parallel for one in estimates] == [16, 8, 4, 2]
    small = {gpu: _nodes(estimate_node_counts(LLAMA13, REWARD, TUTORIAL13, 9, GPUS[gpu])) for gpu in ("h100", "l40s")}
    assert small == {"h100": [32, 16, 8, 4, 2, 1], "l40s": [32, 16, 8, 4]}  # 0.85 of 45 GiB: 37.6 on 4, 43.1 on 2


@pytest.mark.parametrize(
    ("layout", "tried"),
    [
        ({"nodes": 6, "devices": 8}, [6, 3, 1]),
        ({"nodes": 6, "devices": 1, "tensor": 2}, [6]),  # 3 processes are no multiple of 2
        ({"devices": 8}, [1]),
    ],
)
def test_fewer_nodes_hold_whole_copies_of_the_model(layout: dict[str, Any], tried: list[int]) -> None:
    assert _nodes(estimate_node_counts(LLAMA13, REWARD, LayoutSettings(**layout), 9, GPUS["b200"])) == tried


def test_only_the_layout_itself_is_estimated_if_it_does_not_fit() -> None:
    alone = LayoutSettings(nodes=2, devices=8)
    assert _nodes(estimate_node_counts(LLAMA70, REWARD, alone, 9, H100)) == [2]


def test_hours_are_steps_times_seconds() -> None:
    own = estimate_node_counts(LLAMA13, REWARD, TUTORIAL13, 9, H100)[0]
    footprint = training_footprint(LLAMA13, REWARD, TUTORIAL13, 9)
    assert own.time == step_time(LLAMA13, TUTORIAL13, 9, H100, footprint)
    assert own.hours == 800 * own.time.total / 3600
    assert own.gpu_hours == own.hours * 256
    unknown = estimate_node_counts(LLAMA13, RewardSettings(epochs=1, global_batch=512), TUTORIAL13, 9, H100)[0]
    assert (unknown.hours, unknown.gpu_hours) == (None, None)


def test_real_lengths_give_each_replica_of_the_tutorial_one_row() -> None:
    """Conversations of 415 tokens on average, as OASST's with Llama 2: 3,300 per replica on 32 nodes."""
    lengths = np.random.default_rng(0).integers(30, 800, 4000).tolist()
    estimates = {one.nodes: one for one in estimate_node_counts(LLAMA13, REWARD, TUTORIAL13, 9, H100, lengths)}
    assert estimates[32].rows_per_replica == 1
    assert estimates[4].rows_per_replica > 3
    assert estimates[32].time.gradients > 0 == estimates[4].time.gradients
    assert estimates[4].mfu > 1.4 * estimates[32].mfu


def test_rows_that_keep_a_layout_busy() -> None:
    assert [sufficient_rows(layout) for layout in (TUTORIAL13, TUTORIAL70, LayoutSettings(devices=8))] == [2, 4, 1]
    # One row of 8,192 tokens on each of 64 replicas, shared by 512 samples; three of 4,096 on 16, by 128.
    assert few_rows_mean_tokens(REWARD, TUTORIAL13) == 8192 * 64 / 512 == 1024
    assert few_rows_mean_tokens(SFTSettings(max_steps=1, global_batch=128), TUTORIAL70) == 3 * 4096 * 16 / 128


@pytest.mark.parametrize(("length", "few"), [(1024, True), (1100, False)])
def test_samples_up_to_that_length_give_too_few_rows(length: int, few: bool) -> None:
    footprint = training_footprint(LLAMA13, REWARD, TUTORIAL13, 9, [length] * 2000)
    assert (footprint.rows_per_replica < sufficient_rows(TUTORIAL13)) is few
