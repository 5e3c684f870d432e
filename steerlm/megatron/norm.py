# SPDX-License-Identifier: Apache-2.0
"""RMSNorm: one formula and its gradient."""

from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.transformer import TransformerConfig

from steerlm.megatron import device


class _Norm(torch.autograd.Function):
    """x / rms(x) * weight over the last dimension, saving its input and one number per token.

    Torch has a kernel for it on GPUs only: on a CPU it takes 5 passes over the data forward and 11 backward, and saves
    the quotient too.
    """

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
        weight_grad = products.t().mv(scale.flatten())
        along = products.mv(weight).view_as(scale).mul_(scale**3).div_(x.shape[-1])
        return (grad * weight).mul_(scale).addcmul_(x, along, value=-1), weight_grad, None


class RMSNorm(torch.nn.Module):
    """RMSNorm that marks its weight for sequence parallelism, so that gradients are summed; megatron's refuses it."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **kwargs: Any) -> None:
        super().__init__()
        self.eps = eps
        self.weight = torch.nn.Parameter(torch.empty(hidden_size, dtype=config.params_dtype, device=device.device()))
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize the last dimension by its root mean square; fp32 on the CPU uses this file's gradient."""
        if not device.on_accelerator() and x.dtype == torch.float32:
            out: torch.Tensor = _Norm.apply(x, self.weight, self.eps)
            return out
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
