# SPDX-License-Identifier: Apache-2.0
"""A process's share of the training state: a range of every parameter, with its optimizer state.

Megatron's distributed optimizer cuts the gradient buffer into buckets, and each bucket into one piece per data-parallel
replica. Of a parameter, a process therefore holds the contiguous range that falls into its pieces. Buckets and their
padding are not visible outside this file.
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
    """Elements `start` to `stop` of a flattened parameter; `tensors` are views of the live state, each [stop - start].

    `weight` in the model's precision; `exp_avg` and `exp_avg_sq` fp32; `master` fp32 where the weight is not.
    """

    parameter: Parameter
    start: int
    stop: int
    tensors: dict[str, torch.Tensor]


def shares(model: torch.nn.Module, optimizer: Any, own: Sequence[Parameter]) -> Iterator[Share]:
    """Yield this process's share of each parameter in `own`. `optimizer`: megatron's distributed optimizer."""
    fixes.make_adam_state(optimizer)
    by_name = {parameter.name: parameter for parameter in own}
    names = {tensor: name for name, tensor in model.named_parameters()}
    for tensor, held in _ranges(optimizer):
        start, stop = held.start, held.end
        state = optimizer._get_main_param_and_optimizer_states(tensor)
        tensors = {WEIGHT: tensor.detach().view(-1)[start:stop], **{name: state[name] for name in MOMENTS}}
        if tensor.dtype != torch.float32:  # else the optimizer works on the weight itself
            tensors[MASTER] = state["param"].detach()
        yield Share(by_name[names[tensor]], start, stop, tensors)


def _ranges(optimizer: Any) -> Iterator[tuple[torch.nn.Parameter, Any]]:
    """Yield (parameter, range within it) of everything that this process holds."""
    for buffer in optimizer.gbuf_ranges:
        for buckets in buffer.values():
            for bucket in buckets:
                for tensor, ranges in bucket["param_map"].items():
                    yield tensor, ranges["param"]


def matches_master(share: Share, weight: torch.Tensor) -> bool:
    """Return whether the optimizer's master weights, rounded, equal the model's `weight` [stop - start]."""
    master = share.tensors.get(MASTER, share.tensors[WEIGHT])
    return torch.equal(master.to(weight.dtype), weight)
