# SPDX-License-Identifier: Apache-2.0
"""The gated activation of a Llama's feed-forward block. Knows one formula and its gradient."""

from typing import Any

import torch
import torch.nn.functional as F


class _GatedSilu(torch.autograd.Function):
    """silu(gate) * up, keeping its input alone: autograd would keep five times the block's width instead of three,
    which is the largest part of a layer's activations."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        gate, up = x.chunk(2, -1)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        gate, up = x.chunk(2, -1)
        out = torch.empty_like(x)
        of_gate, of_up = out.chunk(2, -1)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=of_gate)
        torch.mul(grad, F.silu(gate), out=of_up)
        return out


class GatedSilu:
    """Where megatron's feed-forward block takes its activation: [..., 2 f], gate before up -> [..., f].

    No module: it has no weights, and megatron's checkpoints ask every module for its share.
    """

    def __init__(self, config: Any) -> None: ...

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = _GatedSilu.apply(x)
        return out
