# SPDX-License-Identifier: Apache-2.0
"""Fixes for megatron-core 0.16.1. Nothing here is about CPUs: a GPU node without Transformer Engine needs them too.

Its DistributedOptimizer, where torch's AdamW is used (neither Transformer Engine nor Apex installed), cannot load a
checkpoint; and once it can, one `step` tensor is shared by all parameters, so that Adam's bias correction silently runs
ahead by the number of parameters. The tests of resume hold each of these. Its gradient norm, where neither of the two
is installed, reads one number per parameter back from the device. Its checkpoint writer starts a server process
that imports the main module again, and forks a process full of threads, for which it waits for ever if one is killed.
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
    """Raises `InputError` for another megatron-core: device layer, fixes and validations are written for this one."""
    found = megatron.core.__version__
    if found != VERSION:
        raise InputError(f"megatron-core {found} is installed, {VERSION} is needed; pip install 'steerlm[train]'")


def install() -> None:
    """Let `DistributedOptimizer` copy loaded state into torch's AdamW, whose state has a `step` beside its tensors, and
    into fp32 weights, which want a gradient, whatever the Adam; and let the checkpoint writer, which we never run apart
    from this process, write and hand its results over within it."""
    check_version()
    filesystem_async._results_queue = queue.SimpleQueue()
    filesystem_async.FileSystemWriterAsync.write_preloaded_data_multiproc = staticmethod(_write)
    distrib_optimizer.DistributedOptimizer._set_main_param_and_optimizer_states = _set_states
    if not distrib_optimizer.HAVE_APEX_OR_TE:
        clip_grads.l2_norm_impl = _l2_norm


def _write(transforms: list[Any], use_msc: bool, rank: int, buckets: Sequence[Any], results: Any) -> None:
    """Each bucket in a thread; `results` gets what was written by bucket, or the exception of the first that failed."""
    done: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
    running: queue.Queue[int] = queue.Queue()
    with ThreadPoolExecutor(len(buckets)) as pool:
        for number, bucket in enumerate(buckets):
            running.put(number)
            write = filesystem_async.FileSystemWriterAsync.write_preloaded_data
            pool.submit(write, transforms, number, bucket, done, running, use_fsync=True, use_msc=use_msc)
    written = dict(done.get_nowait() for _ in buckets)
    results.put(next((found for found in written.values() if isinstance(found, Exception)), written))


@torch.no_grad()
def _set_states(self: Any, model_param: torch.nn.Parameter, tensors: dict[str, torch.Tensor]) -> None:
    group, order = self.model_param_group_index_map[model_param]
    main = self.optimizer.param_groups[group]["params"][order]
    for name, target in {"param": main, **self.optimizer.state[main]}.items():
        if name != "step":  # travels in the parameter groups
            target.copy_(tensors[name])


def _l2_norm(chunk_size: int, flag: torch.Tensor, tensors: list[list[torch.Tensor]], each: bool) -> tuple[Any, None]:
    """The norm [1] of all tensors together, left on the device; signature of Apex's multi_tensor_l2norm."""
    return torch.stack(torch._foreach_norm(tensors[0])).norm().view(1), None


def make_adam_state(optimizer: Any) -> None:
    """Zero moments and step 0 for every parameter, which `state_dict()` takes for granted. `optimizer`: megatron's."""
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
    """Updates made so far, which Adam's bias correction depends on. `optimizer`: megatron's, its state made."""
    if distrib_optimizer.HAVE_APEX_OR_TE:
        return int(optimizer.optimizer.param_groups[0].get("step", 0))
    return int(next(iter(optimizer.optimizer.state.values()))["step"])


def set_step(optimizer: Any, step: int) -> None:
    """The inverse of `get_step`."""
    if distrib_optimizer.HAVE_APEX_OR_TE:
        for group in optimizer.optimizer.param_groups:
            group["step"] = step
        return
    for state in optimizer.optimizer.state.values():
        state["step"].fill_(step)


def fit_param_groups(state: dict[str, Any], optimizer: Any) -> None:
    """Let a loaded optimizer state, which is about to replace the parameter groups, fit the Adam in use: Transformer
    Engine's FusedAdam and torch's AdamW lack keys of each other's groups, and FusedAdam's step must be an integer."""
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
