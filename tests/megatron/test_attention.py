# SPDX-License-Identifier: Apache-2.0
"""Rotary frequencies against transformers', and segments that stay apart whatever their lengths."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from steerlm.megatron.attention import Rotary, causal, rotate, segments
from steerlm.models.shape import ModelShape, RopeScaling
from steerlm.training.data import Row, Sample
from steerlm.training.tensors import row_tensors
from tests.megatron.material import GQA, SHAPES

LLAMA_31 = GQA.model_copy(
    update={
        "head_dim": 128,
        "rope_theta": 500000.0,
        "rope_scaling": RopeScaling(
            factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192
        ),
    }
)


@pytest.mark.parametrize("shape", [GQA, SHAPES["scaled"], LLAMA_31], ids=["plain", "scaled", "llama-3.1"])
def test_frequencies_equal_transformers(shape: ModelShape) -> None:
    config = LlamaConfig(**{key: value for key, value in shape.to_config().items() if key != "model_type"})
    theirs = LlamaRotaryEmbedding(config).inv_freq
    assert torch.allclose(Rotary(shape).frequencies, theirs, rtol=1e-6, atol=0)


@pytest.mark.parametrize("lengths", [[7], [5, 5, 5], [40, 1, 9, 8, 33, 2, 39], [1, 1, 64]])
def test_segments_stay_apart(lengths: list[int]) -> None:
    row = row_tensors(Row(tuple(Sample(np.ones(n, np.int32), np.zeros(n, np.float32)) for n in lengths)), 4, "cpu")
    packed, total = segments(row, Rotary(GQA), padded=True), len(row.tokens)
    torch.manual_seed(0)
    q, k, v = (torch.randn(total, 1, heads, 8, requires_grad=True) for heads in (4, 2, 2))
    out = causal(rotate(q, packed)[:, 0], rotate(k, packed)[:, 0], v[:, 0], packed)
    wanted = []
    config = LlamaConfig(**{key: value for key, value in GQA.to_config().items() if key != "model_type"})
    for start, end in itertools.pairwise(row.cu_seqlens.tolist()):
        one = [x[start:end, 0].transpose(0, 1)[None] for x in (q, k, v)]
        cos, sin = LlamaRotaryEmbedding(config)(one[0], torch.arange(end - start)[None])
        one[:2] = apply_rotary_pos_emb(one[0], one[1], cos, sin)
        attended = F.scaled_dot_product_attention(one[0], one[1], one[2], is_causal=True, enable_gqa=True)
        wanted.append(attended[0].transpose(0, 1))
    assert torch.allclose(out, torch.cat(wanted), atol=1e-5)
    direction = torch.randn_like(out)
    ours = torch.autograd.grad((out * direction).sum(), (q, k, v))
    theirs = torch.autograd.grad((torch.cat(wanted) * direction).sum(), (q, k, v))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
