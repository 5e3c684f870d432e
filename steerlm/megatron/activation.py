# SPDX-License-Identifier: Apache-2.0
"""The gated activation of the feed-forward block: one formula and its gradient."""

from typing import Any

import torch
import torch.nn.functional as F


class _GatedSilu(torch.autograd.Function):
    """silu(gate) * up, saving only its input for the backward pass.

    Autograd would save five times the block's width instead of three, the largest part of a layer's activations.
    """

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
        gate_grad, up_grad = out.chunk(2, -1)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=gate_grad)
        torch.mul(grad, F.silu(gate), out=up_grad)
        return out


class GatedSilu:
    """The activation that megatron's feed-forward block calls: [..., 2 f], gate before up -> [..., f].

    Not a `Module`, as it has no weights: megatron's checkpoints call `sharded_state_dict` on every module.
    """

    def __init__(self, config: Any) -> None: ...

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return silu(gate) * up, [..., f], for the concatenated halves [..., 2 f]."""
        out: torch.Tensor = _GatedSilu.apply(x)
        return out
