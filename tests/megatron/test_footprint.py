# SPDX-License-Identifier: Apache-2.0
"""The plan's memory figures against what a training really holds, at a small size."""

from typing import Any, Literal

import numpy as np
import pytest
import torch

from steerlm.models.shape import ModelShape
from steerlm.training.config import RewardSettings
from steerlm.training.data import Row, Sample
from steerlm.training.footprint import activation_bytes, state_bytes
from steerlm.training.layout import LayoutSettings
from steerlm.training.tensors import row_tensors
from tests.megatron.forked import one
from tests.megatron.material import engine, objective

SHAPE = ModelShape(
    vocab_size=96,
    hidden_size=256,
    intermediate_size=704,
    num_hidden_layers=4,
    num_attention_heads=8,
    num_key_value_heads=4,
    max_position_embeddings=128,
)
TOKENS = 512


def _bytes(tensors: Any) -> int:
    """Of the distinct storages behind some tensors."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def _row() -> Row:
    """Four samples of one length: no padding anywhere."""
    ids = np.arange(TOKENS // 4, dtype=np.int32) % 90 + 1
    sample = Sample(ids, np.zeros(len(ids), np.float32), np.ones(9, np.float32), count=9)
    return Row((sample,) * 4)


def _more_on_a_cpu(precision: str, recompute: str) -> int:
    """What is kept under bf16 where torch has no fused norm: its input divided by its root mean square, in fp32, and
    the input itself in fp32. The final norm's output is read at four positions only.
    """
    width = SHAPE.hidden_size
    if precision == "fp32":
        return TOKENS * 4 * width
    per_norm, final = 8 * width - 2 * width, 8 * width
    return TOKENS * ((0 if recompute == "full" else SHAPE.num_hidden_layers * 2 * per_norm) + final)


def _measure(precision: Literal["bf16", "fp32"], recompute: str) -> None:
    layout = {"recompute": recompute}
    built = engine(SHAPE, 9, layout=layout, precision=precision)
    built.step([_row()], objective(9), 1e-3)
    weights = list(built.model.parameters())
    buffers = [buffer.grad_data for buffer in built.ddp.buffers]
    inner = built.optimizer.optimizer
    states = [t for state in inner.state.values() for t in state.values() if torch.is_tensor(t) and t.dim()]
    masters = [p for group in inner.param_groups for p in group["params"]] if precision == "bf16" else []
    planned = state_bytes(SHAPE.parameters(9), 1, RewardSettings(max_steps=1, precision=precision))
    measured = [_bytes(weights), _bytes(buffers), _bytes([*states, *masters])]
    for part, expected, found in zip(("weights", "gradients", "optimizer"), planned, measured, strict=True):
        assert found == pytest.approx(expected, rel=0.02), part

    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        out = built.ddp(row_tensors(_row(), 1, built.device, built.outputs))
    own = {p.untyped_storage().data_ptr() for p in weights}
    found = _bytes(t for t in kept if t.untyped_storage().data_ptr() not in own)
    expected = activation_bytes(SHAPE, LayoutSettings(**layout), precision, TOKENS) + _more_on_a_cpu(
        precision, recompute
    )
    if recompute == "full":  # the layer that is computed again is whole only later
        expected -= activation_bytes(SHAPE, LayoutSettings(), precision, TOKENS) // SHAPE.num_hidden_layers
    assert found == pytest.approx(expected, rel=0.02), (found, expected)
    assert out.requires_grad


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_planned_memory_is_what_is_held(precision: str, recompute: str) -> None:
    one(_measure, precision, recompute)
