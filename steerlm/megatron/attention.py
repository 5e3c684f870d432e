# SPDX-License-Identifier: Apache-2.0
"""Attention over packed rows: segment borders, rotary positions, and kernels that keep segments apart.

Megatron's layers see a row as one sequence [T, 1, heads, size]. Its own rotary and packing paths, which split a row
into segments in every layer and synchronize with the device each time, are not used: what the layers of a row share is
computed once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.module import MegatronModule

from steerlm.megatron import device
from steerlm.models.shape import ModelShape
from steerlm.training.data import RowTensors
from steerlm.training.tensors import on_device

SPREAD = 1.25
"""Segments whose lengths are within this factor of each other share one padded call."""


@dataclass(frozen=True, slots=True)
class PaddedBlocks:
    """Segments of similar length, padded to blocks in one buffer.

    Attributes:
        sizes: (segments, length) of each block; blocks follow one another in the buffer.
        total: Tokens of the buffer.
        slots: Index in the buffer of each token of the row [T]; None if the row already is such a buffer.
    """

    sizes: list[tuple[int, int]]
    total: int
    slots: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class Segments:
    """Segments of a row, computed once for all layers; passed as megatron's `packed_seq_params`.

    `cos`, `sin` [T, 1, 1, size/2] fp32; `cu_seqlens` [segments+1] int32; `blocks` None if the kernel takes borders.
    """

    cos: torch.Tensor
    sin: torch.Tensor
    cu_seqlens: torch.Tensor
    longest: int
    blocks: PaddedBlocks | None
    qkv_format: str = "sbhd"


class Rotary(torch.nn.Module):
    """Rotary frequencies in fp32, with all four parameters of Llama 3's scaling; megatron's own has only the factor."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        size = shape.head_size
        # Computed on the CPU on every machine, so that all round the frequencies alike.
        frequencies = 1.0 / (shape.rope_theta ** (torch.arange(0, size, 2, dtype=torch.float32, device="cpu") / size))
        if shape.rope_scaling:
            scaling = shape.rope_scaling
            low, high = scaling.low_freq_factor, scaling.high_freq_factor
            turns = scaling.original_max_position_embeddings * frequencies / (2 * math.pi)
            kept = ((turns - low) / (high - low)).clamp(0, 1)  # 1: unchanged, 0: divided by the factor
            slowed = (1 - kept) * frequencies / scaling.factor + kept * frequencies
            frequencies = torch.where(kept == 1, frequencies, slowed)
        self.frequencies = frequencies.to(device.device())

    def forward(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cos and sin [T, 1, 1, size/2] fp32 of `positions` [T]."""
        angles = torch.outer(positions.float(), self.frequencies)[:, None, None]
        return angles.cos(), angles.sin()


def segments(row: RowTensors, rotary: Rotary, padded: bool) -> Segments:
    """Return the segments of a row. `padded`: for a kernel that takes segments padded to blocks."""
    cos, sin = rotary(row.positions)
    blocks = _blocks(row.lengths, row.tokens.device) if padded else None
    return Segments(cos, sin, row.cu_seqlens, max(row.lengths), blocks)


def _blocks(lengths: Sequence[int], target: torch.device) -> PaddedBlocks:
    if len(set(lengths)) == 1:
        return PaddedBlocks([(len(lengths), lengths[0])], sum(lengths), None)
    groups: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not groups or lengths[i] * SPREAD < lengths[groups[-1][0]]:
            groups.append([])
        groups[-1].append(i)
    sizes = [(len(group), lengths[group[0]]) for group in groups]
    starts = np.empty(len(lengths), np.int64)
    total = 0
    for group, (count, longest) in zip(groups, sizes, strict=True):
        starts[group] = total + longest * np.arange(count)
        total += count * longest
    offsets = np.cumsum(lengths) - lengths
    slots = np.arange(sum(lengths)) + np.repeat(starts - offsets, lengths)
    return PaddedBlocks(sizes, total, on_device({"slots": slots}, target)["slots"])


class _Rotate(torch.autograd.Function):
    """Rotate the halves of the last dimension; the gradient is the inverse rotation, so no activation is saved."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotated(grad, cos, -sin), None, None


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    a, b = x.chunk(2, -1)
    out = torch.empty_like(x)
    first, second = out.chunk(2, -1)
    torch.mul(a, cos, out=first).addcmul_(b, sin, value=-1)
    torch.mul(b, cos, out=second).addcmul_(a, sin)
    return out


class _Pad(torch.autograd.Function):
    """Copy tokens [T, ...] to their slots of a zeroed buffer [total, ...]."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, slots: torch.Tensor, total: int) -> torch.Tensor:
        ctx.save_for_backward(slots)
        return x.new_zeros(total, *x.shape[1:]).index_copy_(0, slots, x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (slots,) = ctx.saved_tensors
        return grad.index_select(0, slots), None, None


class _Unpad(torch.autograd.Function):
    """The inverse of `_Pad`."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(slots)
        ctx.total = len(x)
        return x.index_select(0, slots)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        (slots,) = ctx.saved_tensors
        return grad.new_zeros(ctx.total, *grad.shape[1:]).index_copy_(0, slots, grad), None


def rotate(x: torch.Tensor, row: Segments) -> torch.Tensor:
    """Rotate `x` [T, 1, heads, size] in its own dtype, as transformers does."""
    rotated: torch.Tensor = _Rotate.apply(x, row.cos.to(x.dtype), row.sin.to(x.dtype))
    return rotated


def causal(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, row: Segments) -> torch.Tensor:
    """Compute causal attention within segments: [T, heads, size] each -> [T, heads, size].

    With fewer key-value heads than query heads it is grouped-query attention.
    """
    grouped = query.shape[1] != key.shape[1]
    if row.blocks is None:
        from torch.nn.attention.varlen import varlen_attn

        cu, longest = row.cu_seqlens, row.longest
        out = varlen_attn(query, key, value, cu, cu, longest, longest, window_size=(-1, 0), enable_gqa=grouped)
        assert isinstance(out, torch.Tensor)  # a pair only if the logsumexp is requested
        return out
    blocks = row.blocks
    inputs = [x if blocks.slots is None else _Pad.apply(x, blocks.slots, blocks.total) for x in (query, key, value)]
    per_input = (x.split([count * length for count, length in blocks.sizes]) for x in inputs)
    outs = []
    for (count, length), *parts in zip(blocks.sizes, *per_input, strict=True):
        # Causal over right-padded segments: no real token sees padding.
        q, k, v = (x.unflatten(0, (count, length)).transpose(1, 2) for x in parts)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        outs.append(attended.transpose(1, 2).flatten(0, 1))
    joined = outs[0] if len(outs) == 1 else torch.cat(outs)
    return joined if blocks.slots is None else _Unpad.apply(joined, blocks.slots)


class SdpaAttention(MegatronModule):
    """`core_attention` of a layer spec: our rotation and torch's scaled dot product attention."""

    def __init__(self, config: TransformerConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config=config)

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *args: Any,
        packed_seq_params: Segments,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Map [T, 1, heads, size] each to [T, 1, heads * size]."""
        row = packed_seq_params
        query, key = rotate(query, row), rotate(key, row)
        out = causal(query.squeeze(1), key.squeeze(1), value.squeeze(1), row)
        return out.reshape(len(out), 1, -1)


def packing(row: Segments) -> PackedSeqParams:
    """Return a row's borders as Transformer Engine's attention takes them."""
    cu, longest = row.cu_seqlens, row.longest
    return PackedSeqParams(
        qkv_format="thd", cu_seqlens_q=cu, cu_seqlens_kv=cu, max_seqlen_q=longest, max_seqlen_kv=longest
    )
