# SPDX-License-Identifier: Apache-2.0
"""The share of the training state that one process keeps: of every parameter a range, with its optimizer state.

Megatron's distributed optimizer cuts the gradient buffer into buckets and each bucket into one piece a data-parallel
replica. Seen from a parameter, a process therefore keeps the contiguous range of it that falls into its pieces; buckets
and their padding do not show outside this file.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from steerlm.megatron import fixes
from steerlm.megatron.mapping import Parameter

WEIGHT, MASTER, MOMENTS = "weight", "master", ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, slots=True)
class Share:
    """Elements `start` to `stop` of a parameter, flattened; `tensors` are the live ones, each [stop - start].

    `weight` in the model's precision; `exp_avg` and `exp_avg_sq` fp32; `master` fp32 where the weight is not.
    """

    parameter: Parameter
    start: int
    stop: int
    tensors: dict[str, torch.Tensor]


def shares(model: torch.nn.Module, optimizer: Any, own: Sequence[Parameter]) -> Iterator[Share]:
    """This process's shares of `own`, the model's parameters. `optimizer`: megatron's distributed one."""
    fixes.make_adam_state(optimizer)
    by_name = {parameter.name: parameter for parameter in own}
    names = {tensor: name for name, tensor in model.named_parameters()}
    for tensor, kept in _ranges(optimizer):
        start, stop = kept.start, kept.end
        state = optimizer._get_main_param_and_optimizer_states(tensor)
        tensors = {WEIGHT: tensor.detach().view(-1)[start:stop], **{name: state[name] for name in MOMENTS}}
        if tensor.dtype != torch.float32:  # else the optimizer works on the weight itself
            tensors[MASTER] = state["param"].detach()
        yield Share(by_name[names[tensor]], start, stop, tensors)


def _ranges(optimizer: Any) -> Iterator[tuple[torch.nn.Parameter, Any]]:
    """(parameter, range within it) of everything this process keeps."""
    for buffer in optimizer.gbuf_ranges:
        for buckets in buffer.values():
            for bucket in buckets:
                for tensor, ranges in bucket["param_map"].items():
                    yield tensor, ranges["param"]


def master_is(of: Share, weight: torch.Tensor) -> bool:
    """Whether what the optimizer updates, rounded, is the model's `weight` [stop - start]."""
    master = of.tensors.get(MASTER, of.tensors[WEIGHT])
    return torch.equal(master.to(weight.dtype), weight)
