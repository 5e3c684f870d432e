# SPDX-License-Identifier: Apache-2.0
"""The norm of a Llama's layers. Knows one formula and its gradient."""

from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.transformer import TransformerConfig

from steerlm.megatron import device


class _Norm(torch.autograd.Function):
    """x / rms(x) * weight over the last dimension, keeping its input and a number a token. Torch has a kernel of this
    on GPUs; on a CPU it composes it of 5 passes over the data forward and 11 backward, and keeps the quotient too."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        products = (grad * x).view(-1, x.shape[-1])
        of_weight = products.t().mv(scale.flatten())
        along = products.mv(weight).view_as(scale).mul_(scale**3).div_(x.shape[-1])
        return (grad * weight).mul_(scale).addcmul_(x, along, value=-1), of_weight, None


class RMSNorm(torch.nn.Module):
    """Megatron's torch norm refuses sequence parallelism; this one marks its weight, so that gradients are summed."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **kwargs: Any) -> None:
        super().__init__()
        self.eps = eps
        self.weight = torch.nn.Parameter(torch.empty(hidden_size, dtype=config.params_dtype, device=device.device()))
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not device.on_accelerator() and x.dtype == torch.float32:
            out: torch.Tensor = _Norm.apply(x, self.weight, self.eps)
            return out
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
