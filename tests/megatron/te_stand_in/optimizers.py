# SPDX-License-Identifier: Apache-2.0
"""`FusedAdam`, whose state differs from that of torch's AdamW, and the functions over lists of tensors."""

from collections.abc import Callable, Iterable
from typing import Any

import torch


class FusedAdam(torch.optim.Optimizer):
    """Adam with decoupled weight decay. `step` is an integer of a parameter group, absent before the first step; a
    parameter's state is `exp_avg` and `exp_avg_sq`, made at its first step.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        bias_correction: bool = True,
        adam_w_mode: bool = True,
        capturable: bool = False,
        master_weights: bool = False,
        master_weight_dtype: torch.dtype = torch.float32,
        exp_avg_dtype: torch.dtype = torch.float32,
        exp_avg_sq_dtype: torch.dtype = torch.float32,
        use_decoupled_grad: bool = False,
        store_param_remainders: bool = False,
        set_grad_none: bool | None = None,
    ) -> None:
        assert adam_w_mode and bias_correction and not amsgrad and not capturable
        assert not master_weights and not use_decoupled_grad and not store_param_remainders
        assert exp_avg_dtype == exp_avg_sq_dtype == torch.float32
        defaults = {"lr": lr, "bias_correction": bias_correction, "betas": betas, "eps": eps}
        super().__init__(params, {**defaults, "weight_decay": weight_decay})
        self.name_to_dtype_map = {"exp_avg": torch.float32, "exp_avg_sq": torch.float32, "master_param": torch.float32}

    def get_unscaled_state(self, param: torch.Tensor, state_name: str) -> torch.Tensor:
        state: torch.Tensor = self.state[param][state_name]
        assert state.dtype == self.name_to_dtype_map[state_name]  # no such name: KeyError
        return state

    def set_scaled_state(self, param: torch.Tensor, state_name: str, unscaled_state: torch.Tensor) -> None:
        assert unscaled_state.dtype == self.name_to_dtype_map[state_name]
        if state_name not in self.state[param]:
            self._initialize_state(param, state_name, zero_buffer=False)
        self.state[param][state_name].copy_(unscaled_state)

    def _initialize_state(self, param: torch.Tensor, state_name: str, zero_buffer: bool) -> None:
        filled = torch.full_like(param, 0.0 if zero_buffer else torch.nan, dtype=self.name_to_dtype_map[state_name])
        self.state[param][state_name] = filled

    def initialize_state(self, param: torch.Tensor, store_param_remainders: bool) -> None:
        self._initialize_state(param, "exp_avg", zero_buffer=True)
        self._initialize_state(param, "exp_avg_sq", zero_buffer=True)

    def state_dict(self) -> dict[str, Any]:
        """Of a state only the names that are known; another one is an error."""
        found = super().state_dict()
        for number, param in self._numbered(found).items():
            if number in found["state"]:
                names = found["state"][number]
                found["state"][number] = {name: self.get_unscaled_state(param, name) for name in names}
        return found

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Every parameter's state is made anew."""
        super().load_state_dict(state_dict)
        for number, param in self._numbered(state_dict).items():
            if number in state_dict["state"]:
                self.state[param] = {}
                for name, value in state_dict["state"][number].items():
                    self.set_scaled_state(param, name, value.float())

    def _numbered(self, state_dict: dict[str, Any]) -> dict[int, torch.Tensor]:
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        params = [param for group in self.param_groups for param in group["params"]]
        return dict(zip(numbers, params, strict=True))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None, grad_scaler: Any = None) -> None:  # type: ignore[override]
        assert closure is None and grad_scaler is None
        for group in self.param_groups:
            if not group["params"]:
                continue
            group["step"] = group.get("step", 0) + 1
            assert isinstance(group["step"], int) and group["bias_correction"]  # arguments of a compiled function
            beta1, beta2 = group["betas"]
            correction1, correction2 = 1 - beta1 ** group["step"], 1 - beta2 ** group["step"]
            for param in group["params"]:
                if not self.state[param]:
                    self.initialize_state(param, False)
                if param.grad is None:
                    continue
                mean, square = self.state[param]["exp_avg"], self.state[param]["exp_avg_sq"]
                grad = param.grad.float()
                mean.mul_(beta1).add_(grad, alpha=1 - beta1)
                square.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
                update = (mean / correction1) / ((square / correction2).sqrt_() + group["eps"])
                param.sub_(group["lr"] * update.add_(param, alpha=group["weight_decay"]))


def multi_tensor_applier(op: Callable[..., Any], noop_flag_buffer: torch.Tensor, tensor_lists: Any, *args: Any) -> Any:
    return op(2048 * 32, noop_flag_buffer, tensor_lists, *args)


def multi_tensor_l2norm(
    chunk_size: int, noop_flag: torch.Tensor, tensor_lists: list[list[torch.Tensor]], per_tensor: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """The norm over all tensors [1] and, if `per_tensor`, each one's."""
    norms = torch.stack([tensor.float().norm() for tensor in tensor_lists[0]])
    return norms.norm().reshape(1), norms if per_tensor else norms.new_empty(0)


def multi_tensor_scale(
    chunk_size: int, noop_flag: torch.Tensor, tensor_lists: list[list[torch.Tensor]], scale: float
) -> None:
    for source, target in zip(*tensor_lists, strict=True):
        target.copy_(source * scale)
