# SPDX-License-Identifier: Apache-2.0
"""Process groups, from torchrun's environment or for a single process, and this process's ranks in them.

Megatron validates layouts in its command line (`megatron/training/arguments.py`), not in its core, where some layouts
train with wrong gradients silently; `LayoutSettings.check_fits` validates them here.
"""

import datetime
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed

from steerlm.errors import ConfigError, PeerLostError
from steerlm.megatron import device, fixes
from steerlm.megatron.mapping import ModelParallelRank
from steerlm.training.engine import Layout
from steerlm.training.layout import STARTUP_TIMEOUT_MINUTES, LayoutSettings

Item = TypeVar("Item")
STARTUP_TIMEOUT = datetime.timedelta(minutes=STARTUP_TIMEOUT_MINUTES)
"""A collective that takes longer fails: a process has died or hangs. `set_timeout` changes it."""


def initialize(layout: LayoutSettings, seed: int) -> Layout:
    """Join the process group and split it into model and data parallel groups. Idempotent; sizes may change.

    Raises `ConfigError` if the number of processes is not the layout's.
    """
    fixes.install()
    device.prepare(layout.tensor)
    if not dist.is_initialized():
        _join()
    world = dist.get_world_size()
    if world != layout.processes:
        raise ConfigError(
            f"{world} processes were started, the layout needs {layout.nodes} nodes x {layout.devices} devices = "
            f"{layout.processes}"
        )
    if parallel_state.is_initialized():
        parallel_state.destroy_model_parallel()
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=layout.tensor,
        pipeline_model_parallel_size=layout.pipeline,
        create_gloo_process_groups=False,
        distributed_timeout_minutes=int(STARTUP_TIMEOUT_MINUTES),
    )
    torch.manual_seed(seed)
    model_parallel_cuda_manual_seed(seed, force_reset_rng=True)
    return Layout(
        dp_rank=parallel_state.get_data_parallel_rank(),
        dp_size=parallel_state.get_data_parallel_world_size(),
        row_multiple=layout.tensor if layout.sequence_parallel else 1,
        rank=dist.get_rank(),
        world_size=world,
        equal_rows=layout.pipeline > 1,
        stage=parallel_state.get_pipeline_model_parallel_rank(),
    )


def _join() -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group(device.backend(), timeout=STARTUP_TIMEOUT)
    else:
        store = dist.HashStore()  # type: ignore[attr-defined]  # needs no port
        dist.init_process_group(device.backend(), store=store, rank=0, world_size=1, timeout=STARTUP_TIMEOUT)


def set_timeout(timeout: datetime.timedelta) -> None:
    """Set how long every later collective of every group may take. Collective.

    On gloo, transfers between pipeline stages keep the first timeout, as torch cannot change it.
    """
    if dist.get_world_size() == 1:
        return
    # A process that arrives early must not time out on one that is still in slow work under the longer timeout.
    dist.barrier()
    device.synchronize()
    for group in list(dist.distributed_c10d._world.pg_map):
        dist.distributed_c10d._set_pg_timeout(timeout, group)


def finish() -> None:
    """Leave the process groups."""
    if parallel_state.is_initialized():
        parallel_state.destroy_model_parallel()
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def peers(diagnosis: Callable[[], str] = str) -> Iterator[None]:
    """Raise `PeerLostError` for a backend's error when another process has died or does not answer in time.

    `diagnosis`: returns which process it is, as far as is known.
    """
    try:
        yield
    except RuntimeError as error:
        message = str(error)
        if not isinstance(error, dist.DistError) and "gloo" not in message:
            raise
        reason = re.sub(r"^\[[^\]]*\] ", "", message).split(". ")[0].splitlines()[0]
        raise peer_lost(reason, diagnosis()) from error


def gather(own: Item) -> list[Item]:
    """Return every process's `own`, in the order of the ranks. Collective."""
    every = [own] * dist.get_world_size()
    dist.all_gather_object(every, own)
    return every


def peer_lost(reason: str, diagnosis: str) -> PeerLostError:
    """Return the error for a lost peer; an empty `diagnosis` refers to the peer's log."""
    return PeerLostError(
        f"another process of this training has ended or does not answer ({reason}); "
        f"{diagnosis or 'see its own log'}; run the same command again to resume from the newest checkpoint"
    )


def is_main_rank() -> bool:
    """Return whether this process is global rank 0, which does what is done once."""
    return dist.get_rank() == 0


def model_parallel_rank() -> ModelParallelRank:
    """Return this process's place in the model-parallel grid."""
    return ModelParallelRank(
        tensor=parallel_state.get_tensor_model_parallel_rank(),
        tensors=parallel_state.get_tensor_model_parallel_world_size(),
        stage=parallel_state.get_pipeline_model_parallel_rank(),
        stages=parallel_state.get_pipeline_model_parallel_world_size(),
    )
