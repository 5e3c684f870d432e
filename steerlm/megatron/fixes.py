# SPDX-License-Identifier: Apache-2.0
"""Fixes for megatron-core 0.16.1. None is specific to CPUs: a GPU node without Transformer Engine needs them too.

- Without Transformer Engine and Apex, `DistributedOptimizer` uses torch's AdamW and cannot load a checkpoint. Once it
  can, one `step` tensor is shared by all parameters, so that Adam's bias correction silently advances once for each of
  them. The tests of resuming cover both.
- Without the two, its gradient norm copies one number per parameter from the device.
- Its checkpoint writer starts a server process that imports the main module again, and forks a multi-threaded process,
  for which it waits forever if that one is killed.
"""

import queue
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import megatron.core
import torch
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.optimizer import clip_grads, distrib_optimizer

from steerlm.errors import InputError

VERSION = "0.16.1"


def check_version() -> None:
    """Raise `InputError` unless megatron-core is the version that device layer and fixes are written for."""
    installed = megatron.core.__version__
    if installed != VERSION:
        raise InputError(f"megatron-core {installed} is installed, {VERSION} is needed; pip install 'steerlm[train]'")


check_version()


def install() -> None:
    """Apply the fixes that replace functions of megatron-core.

    `DistributedOptimizer` then loads state into torch's AdamW, whose state has a `step` beside its tensors, and into
    fp32 weights, which require a gradient. The checkpoint writer writes within this process.
    """
    check_version()
    filesystem_async._results_queue = queue.SimpleQueue()
    filesystem_async.FileSystemWriterAsync.write_preloaded_data_multiproc = staticmethod(_write)
    distrib_optimizer.DistributedOptimizer._set_main_param_and_optimizer_states = _set_states
    if not distrib_optimizer.HAVE_APEX_OR_TE:
        clip_grads.l2_norm_impl = _l2_norm


def _write(transforms: list[Any], use_msc: bool, rank: int, buckets: Sequence[Any], results: Any) -> None:
    """Write each bucket in a thread; put the results by bucket into `results`, or the first failure's exception."""
    done: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
    running: queue.Queue[int] = queue.Queue()
    with ThreadPoolExecutor(len(buckets)) as pool:
        for number, bucket in enumerate(buckets):
            running.put(number)
            write = filesystem_async.FileSystemWriterAsync.write_preloaded_data
            pool.submit(write, transforms, number, bucket, done, running, use_fsync=True, use_msc=use_msc)
    written = dict(done.get_nowait() for _ in buckets)
    results.put(next((result for result in written.values() if isinstance(result, Exception)), written))


@torch.no_grad()
def _set_states(self: Any, model_param: torch.nn.Parameter, tensors: dict[str, torch.Tensor]) -> None:
    group, order = self.model_param_group_index_map[model_param]
    main = self.optimizer.param_groups[group]["params"][order]
    for name, target in {"param": main, **self.optimizer.state[main]}.items():
        if name != "step":  # travels in the parameter groups
            target.copy_(tensors[name])


def _l2_norm(chunk_size: int, flag: torch.Tensor, tensors: list[list[torch.Tensor]], each: bool) -> tuple[Any, None]:
    """Return the norm [1] of all tensors together on their device; signature of Apex's multi_tensor_l2norm."""
    return torch.stack(torch._foreach_norm(tensors[0])).norm().view(1), None


def make_adam_state(optimizer: Any) -> None:
    """Create zero moments and step 0 for every parameter, as `state_dict()` expects. `optimizer`: megatron's."""
    if distrib_optimizer.HAVE_APEX_OR_TE:
        optimizer.init_state_fn(optimizer.optimizer, optimizer.config)  # FusedAdam's step is absent until the first one
        return
    inner = optimizer.optimizer
    for parameter in (p for group in inner.param_groups for p in group["params"]):
        if not inner.state[parameter]:
            inner.state[parameter].update(
                step=torch.zeros((), dtype=torch.float32, device=parameter.device),
                exp_avg=torch.zeros_like(parameter),
                exp_avg_sq=torch.zeros_like(parameter),
            )


def get_step(optimizer: Any) -> int:
    """Return the number of updates so far, as Adam's bias correction counts them. The state must exist."""
    if distrib_optimizer.HAVE_APEX_OR_TE:
        return int(optimizer.optimizer.param_groups[0].get("step", 0))
    return int(next(iter(optimizer.optimizer.state.values()))["step"])


def set_step(optimizer: Any, step: int) -> None:
    """Set the number of updates that `get_step` returns."""
    if distrib_optimizer.HAVE_APEX_OR_TE:
        for group in optimizer.optimizer.param_groups:
            group["step"] = step
        return
    for state in optimizer.optimizer.state.values():
        state["step"].fill_(step)


def fit_param_groups(state: dict[str, Any], optimizer: Any) -> None:
    """Adapt the parameter groups of a loaded optimizer state to the Adam in use.

    Transformer Engine's FusedAdam and torch's AdamW lack keys of each other's groups, and FusedAdam's step must be an
    integer.
    """
    own = optimizer.param_groups[0]
    for group in state["optimizer"]["param_groups"]:
        group.update({key: own[key] for key in own.keys() - group.keys() - {"params", "step"}})
        if "step" in group:
            group["step"] = int(group["step"])


def unshare_step(optimizer: Any) -> None:
    """Give every parameter a `step` of its own after `load_state_dict`."""
    if distrib_optimizer.HAVE_APEX_OR_TE:
        return
    for state in optimizer.optimizer.state.values():
        state["step"] = state["step"].clone()
