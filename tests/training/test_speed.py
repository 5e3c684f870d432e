# SPDX-License-Identifier: Apache-2.0
"""FLOP/s, MFU and imbalance of a step against numbers computed by hand."""

import pytest

from steerlm.models.shape import ModelShape
from steerlm.training.batches import Batch, ReplicaLoad
from steerlm.training.speed import speed_metrics

SHAPE = ModelShape(
    vocab_size=10,
    hidden_size=4,
    intermediate_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    max_position_embeddings=64,
)
MATRICES = 2 * (2 * 4 * 4 + 2 * 4 * 2 + 3 * 4 * 8 + 2 * 4) + 4 + 10 * 4
"""Query and output, key and value, feed-forward, two norms; the final norm; the vocabulary projection."""


def test_a_step_of_two_replicas() -> None:
    # One replica has samples of 6 and 2 tokens in a row of 8, the other one of 4 and four tokens of padding.
    batch = Batch(
        [], count=9, tokens=12, loads=[ReplicaLoad(computed=8, squares=40), ReplicaLoad(computed=8, squares=16)]
    )
    metrics = speed_metrics(batch, 0.5, 4, SHAPE, None, "NVIDIA H100 80GB HBM3")
    attention = 6 * 2 * 4  # per token and token of context: layers, width
    rate = (6 * MATRICES * 12 + attention * (40 + 16)) / 0.5 / 4
    assert metrics["tflops_per_gpu"] == pytest.approx(rate / 1e12)
    assert metrics["mfu"] == pytest.approx(rate / 989e12)
    most, least = (6 * MATRICES * 8 + attention * squares for squares in (40, 16))
    assert metrics["row_imbalance"] == pytest.approx(most / ((most + least) / 2))


def test_an_unknown_device_has_no_mfu() -> None:
    batch = Batch([], count=1, tokens=3, loads=[ReplicaLoad(3, 9)])
    assert speed_metrics(batch, 1.0, 1, SHAPE, None, "cpu").keys() == {"tflops_per_gpu", "row_imbalance"}
