# SPDX-License-Identifier: Apache-2.0
"""Run a function on several ranks in a tenth of a second: the parent has imported everything, ranks are forked from it.

The parent itself is never touched: no process group, and the CPU layer, which replaces torch functions, stays in the
children.
"""

import gc
import os
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # (the first optimizer loads it)
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

import steerlm.megatron.engine  # noqa: F401 (imported here once, for all ranks)


def _rank(rank: int, world: int, folder: str, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    # Before any operation: threads that the parent used do not exist in a fork, and waiting for them never ends.
    torch.set_num_threads(1)
    gc.freeze()  # a collection, which each save asks for, need not go through all that was imported
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank))
    try:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
        result = function(*args)
        dist.barrier()
        torch.save(result, f"{folder}/{rank}.pt")
    except BaseException:  # torch's checkpoint errors are not Exceptions
        Path(f"{folder}/{rank}.txt").write_text(traceback.format_exc())
        os._exit(1)  # the others are waiting for us
    os._exit(0)


def ranks(world: int, function: Callable[..., Any], *args: Any, timeout: float = 60) -> list[Any]:
    """`function(*args)` on `world` ranks, joined in a process group; its result on each. Fails if a rank fails."""
    with tempfile.TemporaryDirectory() as folder:
        context = start_processes(  # type: ignore[no-untyped-call]
            _rank, (world, folder, function, args), nprocs=world, join=False, start_method="fork"
        )
        end = time.monotonic() + timeout
        while any(p.is_alive() for p in context.processes) and time.monotonic() < end:
            if any(p.exitcode for p in context.processes):
                time.sleep(0.5)  # let the others say what they saw
                break
            time.sleep(0.005)
        hanging = [i for i, p in enumerate(context.processes) if p.is_alive()]
        for process in context.processes:
            process.kill()
            process.join()
        errors = [f"rank {i}: {path.read_text()}" for i in range(world) if (path := Path(folder, f"{i}.txt")).exists()]
        if errors or hanging:
            raise AssertionError("\n".join([*errors, *([f"ranks {hanging} did not finish"] if hanging else [])]))
        return [torch.load(f"{folder}/{i}.pt", weights_only=False) for i in range(world)]


def one(function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)` in a single forked process."""
    return ranks(1, function, *args)[0]
