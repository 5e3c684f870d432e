"""Sizes a layout does not divide, and a wrong number of processes, are refused by name."""

import os
from typing import Any

import pytest
import torch.distributed as dist

from steerlm.errors import ConfigError
from steerlm.megatron import parallel
from steerlm.megatron.mapping import Place
from steerlm.training.config import LayoutSettings
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
    with pytest.raises(ConfigError, match="1 processes were started, the layout wants 1 nodes x 2 devices"):
        parallel.initialize(LayoutSettings(devices=2), 0)


def test_another_number_of_processes() -> None:
    one(_too_few)


def _places() -> tuple[Place, int, int, int]:
    layout = LayoutSettings(devices=8, tensor=2, pipeline=2, sequence_parallel=True)
    made = parallel.initialize(layout, 0)
    again = parallel.initialize(layout, 0)
    assert made == again and made.rank == int(os.environ["RANK"]) and made.world_size == 8
    return parallel.place(), made.dp_rank, made.dp_size, made.row_multiple


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
