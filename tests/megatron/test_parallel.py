# SPDX-License-Identifier: Apache-2.0
"""Sizes a layout does not divide, and a wrong number of processes, are refused by name."""

import datetime
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from megatron.core import parallel_state

from steerlm.errors import ConfigError, PeerLostError
from steerlm.megatron import parallel
from steerlm.megatron.mapping import ModelParallelRank
from steerlm.training.layout import LayoutSettings
from tests.megatron.forked import one, ranks
from tests.megatron.material import GQA


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (
            {"devices": 8, "tensor": 8},
            "num_attention_heads 4 does not divide by layout.tensor 8; possible for this model: 1, 2$",
        ),
        ({"devices": 4, "tensor": 4}, "num_key_value_heads 2"),
        (
            {"devices": 3, "pipeline": 3},
            "num_hidden_layers 4 does not divide by layout.pipeline 3; possible for this model: 1, 2, 4$",
        ),
    ],
)
def test_sizes(layout: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LayoutSettings(**layout).check_fits(GQA)


def test_a_vocabulary_that_does_not_divide() -> None:
    odd = GQA.model_copy(update={"vocab_size": 97})
    LayoutSettings().check_fits(odd)
    with pytest.raises(ConfigError, match="vocab_size 97"):
        LayoutSettings(devices=2, tensor=2).check_fits(odd)


def _too_few() -> None:
    with pytest.raises(ConfigError, match="1 processes were started, the layout needs 1 nodes x 2 devices"):
        parallel.initialize(LayoutSettings(devices=2), 0)


def test_another_number_of_processes() -> None:
    one(_too_few)


def _places() -> tuple[ModelParallelRank, int, int, int]:
    layout = LayoutSettings(devices=8, tensor=2, pipeline=2, sequence_parallel=True)
    made = parallel.initialize(layout, 0)
    again = parallel.initialize(layout, 0)
    assert made == again and made.rank == int(os.environ["RANK"]) and made.world_size == 8
    return parallel.model_parallel_rank(), made.dp_rank, made.dp_size, made.row_multiple


def test_places_of_eight_ranks() -> None:
    found = ranks(8, _places)
    assert {(place.tensor, place.stage, dp) for place, dp, _, _ in found} == {
        (t, s, d) for t in range(2) for s in range(2) for d in range(2)
    }
    assert {(size, multiple) for _, _, size, multiple in found} == {(2, 2)}


def _alone() -> tuple[int, int]:
    parallel.finish()
    os.environ.pop("WORLD_SIZE")
    made = parallel.initialize(LayoutSettings(), 0)
    parallel.finish()
    assert not dist.is_initialized()
    parallel.initialize(LayoutSettings(), 0)  # the harness ends with a barrier
    return made.dp_size, made.world_size


def test_one_process_needs_no_launcher() -> None:
    assert one(_alone) == (1, 1)


def _gather_objects() -> None:
    dist.all_gather_object([None, None], 1)


def _reduce_in(group: Callable[[], Any]) -> Callable[[], None]:
    return lambda: dist.all_reduce(torch.ones(4), group=group())


COLLECTIVES: dict[str, Callable[[], Any]] = {
    "of all": _reduce_in(lambda: None),
    "data parallel": _reduce_in(parallel_state.get_data_parallel_group),
    "objects": _gather_objects,
}


def _times_out(name: str, store: Path) -> None:
    parallel.initialize(LayoutSettings(devices=2), 0)
    collective = COLLECTIVES[name]
    collective()
    # Short and long again: what waits longer than the short timeout succeeds.
    parallel.set_timeout(datetime.timedelta(seconds=0.5))
    parallel.set_timeout(datetime.timedelta(minutes=30))
    if dist.get_rank() == 1:
        time.sleep(0.8)
    collective()
    parallel.set_timeout(datetime.timedelta(seconds=0.5))
    if dist.get_rank() == 0:
        began = time.monotonic()
        message = r"\(Timed out waiting 500ms .*\); rank 1 sleeps; run the same command"
        lost = pytest.raises(PeerLostError, match=message)
        with lost, parallel.peers(lambda: "rank 1 sleeps"):
            collective()
        assert time.monotonic() - began < 1.4, "it ended because the other did"
    else:
        time.sleep(1.5)
    parallel.finish()
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=int(os.environ["RANK"]), world_size=2)


@pytest.mark.parametrize("name", COLLECTIVES)
def test_a_shorter_timeout_is_in_force_in_every_group_and_a_longer_one_again(name: str, tmp_path: Path) -> None:
    ranks(2, _times_out, name, tmp_path / "store")  # (the harness ends with a barrier)
