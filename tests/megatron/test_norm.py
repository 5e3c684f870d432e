# SPDX-License-Identifier: Apache-2.0
"""The norm against torch's own, value and gradients."""

import pytest
import torch
import torch.nn.functional as F

from steerlm.megatron.norm import _Norm


@pytest.mark.parametrize("shape", [(7, 1, 16), (3, 48), (64,)])
def test_it_is_torchs_norm_and_its_gradient(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = (3 * torch.randn(shape, dtype=torch.float64)).requires_grad_()
    weight = torch.randn(shape[-1], dtype=torch.float64, requires_grad=True)
    grad = torch.randn(shape, dtype=torch.float64)
    out = _Norm.apply(x, weight, 1e-5)  # type: ignore[no-untyped-call]
    expected = F.rms_norm(x, shape[-1:], weight, 1e-5)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    for found, of_torch in zip(
        torch.autograd.grad(out, (x, weight), grad), torch.autograd.grad(expected, (x, weight), grad), strict=True
    ):
        torch.testing.assert_close(found, of_torch, rtol=1e-12, atol=1e-12)


def test_a_row_of_zeros_has_a_finite_gradient() -> None:
    x = torch.zeros(2, 8, requires_grad=True)
    out = _Norm.apply(x, torch.ones(8), 1e-5)  # type: ignore[no-untyped-call]
    (grad,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(grad, torch.full_like(x, 1e-5**-0.5))
