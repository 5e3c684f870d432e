# SPDX-License-Identifier: Apache-2.0
"""Measure what saving and resuming a checkpoint cost each process, compared with version 0.1 in the same run.

A reward model of 30 million parameters in bf16 on data-parallel processes of this machine. Reported are the maxima over
the processes: seconds that training is blocked (`blocked`) and until the checkpoint is complete, bytes written, bytes
read by a resume (checksums included), increase of the peak host memory.

Version 0.1 gathered the optimizer state on every replica (megatron's `fully_reshardable`) and waited for the disk. The
second save of the current version reuses the host buffers of the first.

    python benchmarks/checkpoint.py [--ranks 4 8]
"""

import steerlm  # noqa: F401  # isort: skip (before torch: it sets how its threads wait)

import argparse
import contextlib
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from megatron.core import dist_checkpointing
from torch.multiprocessing.spawn import start_processes

from steerlm.megatron import distributed_checkpoint, fixes
from steerlm.megatron.checkpoint_folder import TENSORS, digest, prepare, seal
from steerlm.megatron.engine import MegatronEngine, build_engine
from steerlm.megatron.shard_files import ShardFiles
from steerlm.models.shape import ModelShape
from steerlm.training.config import RewardSettings
from steerlm.training.layout import LayoutSettings

OUTPUTS = 9
SHAPE = ModelShape(
    vocab_size=8000,
    hidden_size=512,
    intermediate_size=1408,
    num_hidden_layers=8,
    num_attention_heads=8,
    num_key_value_heads=8,
    max_position_embeddings=128,
)


def save_0_1(engine: MegatronEngine, folder: Path) -> float:
    started = time.perf_counter()
    engine.gather_weights()
    prepare(folder)
    fixes.make_adam_state(engine.optimizer)
    content = distributed_checkpoint._sharded(engine.model)
    metadata = {**distributed_checkpoint.CONTENT, "dp_cp_group": distributed_checkpoint._group()}
    content["optimizer"] = engine.optimizer.sharded_state_dict(content["model"], metadata=metadata)
    dist_checkpointing.save(content, str(folder / TENSORS), content_metadata=distributed_checkpoint.CONTENT)
    files = {str(path.relative_to(folder)): digest(path) for path in distributed_checkpoint._written_here(folder)}
    description = {"shape": SHAPE.model_dump(), "outputs": OUTPUTS, "dtype": "bfloat16", "optimizer": True}
    seal(folder, files, description, {})
    return time.perf_counter() - started


def save_now(engine: MegatronEngine, folder: Path) -> float:
    started = time.perf_counter()
    engine.save(folder, {})
    blocked = time.perf_counter() - started
    engine.finish_save()
    return blocked


def status(path: str, key: str) -> int:
    return int(Path(path).read_text().split(f"{key}:")[1].split()[0])


def measure(engine: MegatronEngine, folder: Path, save: Callable[[MegatronEngine, Path], float]) -> dict[str, float]:
    dist.barrier()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = status("/proc/self/status", "VmRSS")
    started = time.perf_counter()
    blocked = save(engine, folder)
    found = {"blocked s": blocked, "saved s": time.perf_counter() - started}
    mine = (f"__{dist.get_rank()}_*", f"*-replica-{dist.get_rank():04d}.*")
    files = [path for pattern in mine for path in (folder / TENSORS).glob(pattern)]
    found["written MB"] = sum(path.stat().st_size for path in files) / 1e6
    found["host peak MB"] = (status("/proc/self/status", "VmHWM") - before) / 1024
    dist.barrier()
    read, started = status("/proc/self/io", "rchar"), time.perf_counter()
    with mapped_bytes() as mapped:
        engine.load(folder)
    found["resumed s"] = time.perf_counter() - started
    found["read MB"] = (status("/proc/self/io", "rchar") - read + sum(mapped)) / 1e6
    return found


@contextlib.contextmanager
def mapped_bytes() -> Iterator[list[int]]:
    """Sizes of what is taken from memory-mapped safetensors, which the kernel does not count as read."""
    sizes: list[int] = []
    take = ShardFiles._saved

    def counted(self: ShardFiles, *args: Any, **kwargs: Any) -> torch.Tensor:
        tensor = take(self, *args, **kwargs)
        sizes.append(tensor.nbytes)
        return tensor

    ShardFiles._saved = counted  # type: ignore[method-assign]
    yield sizes
    ShardFiles._saved = take  # type: ignore[method-assign]


def rank(number: int, world: int, folder: str, results: "mp.SimpleQueue[object]") -> None:
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    os.environ.update(RANK=str(number), WORLD_SIZE=str(world), LOCAL_RANK=str(number))
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=number, world_size=world)
    settings = RewardSettings(max_steps=1, precision="bf16")
    layout = LayoutSettings(devices=world)
    engine = build_engine(model_folder=None, shape=SHAPE, outputs=OUTPUTS, settings=settings, layout=layout)
    for name, save in (("version 0.1", save_0_1), ("now, first", save_now), ("now, again", save_now)):
        mine = measure(engine, Path(folder) / name, save)
        everyone: list[dict[str, float]] = [{}] * world
        dist.all_gather_object(everyone, mine)
        if number == 0:
            results.put((name, {key: max(one[key] for one in everyone) for key in mine}, everyone))
    dist.barrier()
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[4, 8])
    for world in parser.parse_args().ranks:
        print(f"{world} processes, {SHAPE.parameters(OUTPUTS) / 1e6:.1f} M parameters; the largest of all processes")
        results = mp.get_context("fork").SimpleQueue()
        with tempfile.TemporaryDirectory() as folder:
            start_processes(rank, (world, folder, results), nprocs=world, start_method="fork")  # type: ignore[no-untyped-call]
            while not results.empty():
                name, largest, _ = results.get()
                print(f"  {name:12} " + "  ".join(f"{key} {value:8.2f}" for key, value in largest.items()))


if __name__ == "__main__":
    main()
