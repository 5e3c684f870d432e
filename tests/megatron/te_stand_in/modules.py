# SPDX-License-Identifier: Apache-2.0
"""The linear layers and the norm: Transformer Engine's parameters, communication and handling of gradients."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist


class BaseModule(torch.nn.Module):
    """What every module of Transformer Engine has: the checks of an input and the state of quantization."""

    def __init__(self) -> None:
        super().__init__()
        self.fp8 = False
        self.fp8_meta: dict[str, Any] = {}
        self.tp_group, self.tp_size, self.sequence_parallel = None, 1, False
        self.tp_group_initialized = False

    def set_tensor_parallel_group(self, tp_group: Any) -> None:
        self.tp_group, self.tp_group_initialized = tp_group, True

    def join(self, tp_group: Any, tp_size: int) -> None:
        self.tp_size = tp_size if tp_group is None else tp_group.size()
        if tp_group is not None or tp_size == 1:
            self.set_tensor_parallel_group(tp_group)

    def check(self, inp: torch.Tensor) -> torch.Tensor:
        """What `prepare_forward` checks and does."""
        assert self.tp_size == 1 or self.tp_group_initialized, "TP group not initialized."
        for name, parameter in self.named_parameters():
            assert inp.dtype == parameter.dtype, f"Found input dtype: {inp.dtype} and {name!r} dtype: {parameter.dtype}"
        return inp.contiguous()

    def get_extra_state(self) -> torch.Tensor:
        return torch.empty(0, dtype=torch.uint8)  # nothing is quantized

    def set_extra_state(self, state: torch.Tensor | None) -> None:
        assert state is None or state.numel() == 0


def get_dummy_wgrad(shape: list[int], dtype: torch.dtype, zero: bool = False) -> torch.Tensor:
    """What stands in `grad` of a weight whose gradient went to `main_grad`; uninitialized in the real thing."""
    return torch.full(shape, 0.0 if zero else torch.nan, dtype=dtype)


class Linear(BaseModule):
    """`column`: cut along the outputs, an input cut along the sequence is gathered; `row`: along the inputs."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        sequence_parallel: bool = False,
        fuse_wgrad_accumulation: bool = False,
        tp_group: Any = None,
        tp_size: int = 1,
        get_rng_state_tracker: Callable[[], Any] | None = None,
        rng_tracker_name: str | None = None,
        init_method: Callable[[torch.Tensor], Any] | None = None,
        bias: bool = True,
        return_bias: bool = False,
        params_dtype: torch.dtype | None = None,
        parallel_mode: str | None = None,
        parameters_split: Any = None,
        device: torch.device | str = "cuda",
        ub_overlap_ag: bool = False,
        ub_overlap_rs: bool = False,
        ub_overlap_rs_dgrad: bool = False,
        ub_bulk_dgrad: bool = False,
        ub_bulk_wgrad: bool = False,
        ub_name: str | None = None,
        delay_wgrad_compute: bool = False,
        symmetric_ar_type: str | None = None,
        save_original_input: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__()
        assert (
            not (bias and parallel_mode == "row")
            and not return_bias
            and parameters_split is None
            and not delay_wgrad_compute
        )
        self.join(tp_group, tp_size)
        self.parallel_mode, self.use_bias, self.return_bias = parallel_mode, bias, return_bias
        self.fuse_wgrad_accumulation, self.save_original_input = fuse_wgrad_accumulation, save_original_input
        self.in_features = in_features // (self.tp_size if parallel_mode == "row" else 1)
        self.out_features = out_features // (self.tp_size if parallel_mode == "column" else 1)
        self.sequence_parallel = self.tp_size > 1 and sequence_parallel
        self._make_norm(params_dtype, device)
        size = (self.out_features, self.in_features)
        self.weight = torch.nn.Parameter(torch.empty(size, dtype=params_dtype, device=device))
        if bias:
            self.bias: torch.Tensor = torch.nn.Parameter(
                torch.empty(self.out_features, dtype=params_dtype, device=device)
            )
        else:
            self.bias = torch.Tensor().to(dtype=params_dtype, device=device)  # not a parameter
        assert init_method is not None
        with get_rng_state_tracker().fork() if get_rng_state_tracker else nullcontext(), torch.no_grad():
            init_method(self.weight)
        cut = {"tensor_model_parallel": True, "partition_dim": int(parallel_mode == "row"), "partition_stride": 1}
        for attribute, value in cut.items():
            assert not hasattr(self.weight, attribute)
            setattr(self.weight, attribute, value)
            if bias:
                setattr(self.bias, attribute, value)

    def _make_norm(self, dtype: torch.dtype | None, device: torch.device | str) -> None: ...

    def forward(
        self,
        inp: torch.Tensor,
        is_first_microbatch: bool | None = None,
        fp8_output: bool | None = False,
        fp8_grad: bool | None = False,
    ) -> torch.Tensor:
        out: torch.Tensor = _Linear.apply(self.weight, self.check(inp), self, is_first_microbatch)  # type: ignore[no-untyped-call]
        return out + self.bias if self.use_bias else out


class LayerNormLinear(Linear):
    """A norm, of which every process of the group holds all, before the linear layer."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        eps: float = 1e-5,
        *,
        normalization: str = "LayerNorm",
        return_layernorm_output: bool = False,
        return_layernorm_output_gathered: bool = False,
        zero_centered_gamma: bool = False,
        **kwargs: Any,
    ) -> None:
        assert normalization == "RMSNorm" and not zero_centered_gamma and not return_layernorm_output
        assert not kwargs.keys() & {"rng_tracker_name", "save_original_input"}, "arguments of Linear only"
        self.eps = eps
        super().__init__(in_features, out_features, **kwargs)
        self.normalization = normalization

    def _make_norm(self, dtype: torch.dtype | None, device: torch.device | str) -> None:
        self.layer_norm_weight = torch.nn.Parameter(torch.ones(self.in_features, dtype=dtype, device=device))
        self.layer_norm_weight.sequence_parallel = self.sequence_parallel  # type: ignore[attr-defined]
        self.layer_norm_bias = None

    def forward(self, inp: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return super().forward(_rms_norm(self.check(inp), self.layer_norm_weight, self.eps), *args, **kwargs)


class RMSNorm(torch.nn.Module):
    """An operation of `transformer_engine.pytorch.ops`, whose state it has."""

    def __init__(
        self,
        normalized_shape: Any = None,
        eps: float = 1e-5,
        sequence_parallel: bool | None = None,
        params_dtype: torch.dtype | None = None,
        zero_centered_gamma: bool = False,
        hidden_size: int | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        assert (normalized_shape is None) != (hidden_size is None) and not zero_centered_gamma
        size: Any = hidden_size if normalized_shape is None else normalized_shape
        self.eps, self.sequence_parallel = eps, sequence_parallel
        self.weight = torch.nn.Parameter(torch.ones(size, dtype=params_dtype or dtype, device=device))
        if sequence_parallel is not None:
            self.weight.sequence_parallel = sequence_parallel  # type: ignore[attr-defined]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _rms_norm(x, self.weight, self.eps)

    get_extra_state = BaseModule.get_extra_state
    set_extra_state = BaseModule.set_extra_state


def _rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """In fp32 inside, rounded once at the end."""
    wide = x.float()
    return (wide * (wide.square().mean(-1, keepdim=True) + eps).rsqrt() * weight.float()).to(x.dtype)


class _Linear(torch.autograd.Function):
    """x @ weight.T with the communication of a tensor-parallel layer; the weight's gradient goes to `main_grad` in
    place if it is fused.
    """

    @staticmethod
    def forward(
        ctx: Any, weight: torch.Tensor, x: torch.Tensor, module: Linear, is_first_microbatch: bool | None
    ) -> torch.Tensor:
        ctx.module, ctx.is_first_microbatch = module, is_first_microbatch
        ctx.fused = module.fuse_wgrad_accumulation  # decided in the forward pass
        ctx.save_for_backward(weight, x)
        out = torch.matmul(_gather(x, module) if _gathers(module) else x, weight.t())
        return _sum(out, module) if module.parallel_mode == "row" else out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor, None, None]:
        module: Linear = ctx.module
        weight, x = ctx.saved_tensors
        if module.parallel_mode == "row" and module.sequence_parallel:
            grad = _gather(grad, module)
        of_input = torch.matmul(grad, weight)
        if module.parallel_mode == "column":
            of_input = _sum(of_input, module)
        if _gathers(module):
            x = _gather(x, module)
        grad, x = grad.flatten(0, -2), x.flatten(0, -2)
        if not ctx.fused:
            return grad.t().matmul(x), of_input, None, None
        target = weight.main_grad
        product = grad.t().to(target.dtype).matmul(x.to(target.dtype))
        if ctx.is_first_microbatch:
            target.copy_(product)  # the first of a step is not added
        else:
            target.add_(product)
        of_weight = None
        if hasattr(weight, "grad_added_to_main_grad"):
            weight.grad_added_to_main_grad = True
            of_weight = get_dummy_wgrad(list(target.shape), weight.dtype, getattr(weight, "zero_out_wgrad", False))
        return of_weight, of_input, None, None


def _gathers(module: Linear) -> bool:
    return module.parallel_mode == "column" and module.sequence_parallel


def _gather(x: torch.Tensor, module: Linear) -> torch.Tensor:
    """All processes' tokens, along the first dimension."""
    out = x.new_empty(len(x) * module.tp_size, *x.shape[1:])
    dist.all_gather_into_tensor(out, x.contiguous(), group=module.tp_group)
    return out


def _sum(x: torch.Tensor, module: Linear) -> torch.Tensor:
    """The sum over the processes; of it this process's tokens if the sequence is cut."""
    if module.tp_size == 1:
        return x
    if module.sequence_parallel:
        out = x.new_empty(len(x) // module.tp_size, *x.shape[1:])
        dist.reduce_scatter_tensor(out, x.contiguous(), group=module.tp_group)
        return out
    dist.all_reduce(x, group=module.tp_group)
    return x
