# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a training: every process writes its own share, and any layout resumes from them.

A process keeps 1/DP of the optimizer state of its part of the model (`shares.py`). It writes that, and as much of the
weights, into a file of its own: no process waits for another, none holds more than its share, and no byte is written
twice. Reading maps a layout's parameters onto those of the layout that saved (`resharding.py`), so that the number of
replicas, tensor and pipeline parallelism may all differ. Why not megatron's own format: docs/design.md.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from safetensors import SafetensorError

from steerlm.errors import ModelError, TrainingError
from steerlm.megatron import distributed_checkpoint, fixes, parallel, shard_files
from steerlm.megatron.checkpoint_folder import TENSORS, check, damaged, digest, prepare, raise_together, seal
from steerlm.megatron.host_copies import HostCopies
from steerlm.megatron.mapping import Parameter
from steerlm.megatron.model import Llama
from steerlm.megatron.resharding import SavedLayout, size
from steerlm.megatron.shard_files import ShardFiles
from steerlm.megatron.shares import WEIGHT, Share, master_is, shares
from steerlm.models.shape import ModelShape
from steerlm.training.engine import SaveResult


@dataclass(frozen=True, slots=True)
class Trained:
    """A model in training, on this process: its module, the table of its parameters, megatron's optimizer."""

    model: Llama
    own: Sequence[Parameter]
    optimizer: Any
    shape: ModelShape

    def shares(self) -> list[Share]:
        return list(shares(self.model, self.optimizer, self.own))


class Saving:
    """A checkpoint that is being written. `copied`: seconds that training waited for the copy to host memory."""

    def __init__(self, folder: Path, copied: float, written: "Future[_Written]", seal: Callable[["_Written"], None]):
        self.folder, self.copied = folder, copied
        self._written, self._seal = written, seal

    @property
    def running(self) -> bool:
        """Whether this process is still writing its file."""
        return not self._written.done()

    def finish(self) -> SaveResult:
        """Seal the checkpoint. Collective; every process must have written.

        Raises `TrainingError` on every process alike if one could not write its file.
        """
        written, reason = None, None
        try:
            written = self._written.result()
        except (OSError, SafetensorError) as error:
            reason = str(error)
        raise_together(self.folder, reason)
        assert written is not None
        self._seal(written)
        return SaveResult(self.folder, written.digest[0], self.copied, written.seconds)


@dataclass(frozen=True, slots=True)
class _Written:
    name: str
    digest: tuple[int, str]
    seconds: float


class Saver:
    """Saves the states of one training, one at a time."""

    def __init__(self) -> None:
        self._copies = HostCopies()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")

    def begin(self, folder: Path, trained: Trained, state: Mapping[str, Any]) -> Saving:
        """Copy this process's share to host memory and start writing it. Collective; the last save must be finished."""
        began = time.perf_counter()
        prepare(folder)
        kept = trained.shares()
        live = {f"{name}/{share.parameter.name}": t for share in kept for name, t in share.tensors.items()}
        copies = self._copies.take(live)
        ranges = {share.parameter.name: (share.start, share.stop) for share in kept}
        name = f"{TENSORS}/{shard_files.file_name(parallel.place(), parallel_state.get_data_parallel_rank())}"
        described = _described(trained)
        copied = time.perf_counter() - began

        def write() -> _Written:
            began = time.perf_counter()
            shard_files.write(folder / name, copies, ranges)
            return _Written(name, digest(folder / name), time.perf_counter() - began)

        def complete(written: _Written) -> None:
            seal(folder, {written.name: written.digest}, described, state)

        return Saving(folder, copied, self._thread.submit(write), complete)


def load(folder: Path, trained: Trained) -> None:
    """Restore this process's share of weights and optimizer; the caller gathers the weights. Collective.

    Raises `TrainingError`, on every process alike: before anything is changed for a checkpoint that is incomplete,
    damaged or of another model, afterwards if the master weights are not those of the model's weights.
    """
    described = check(folder, trained.shape, trained.model.outputs)
    if not described["optimizer"]:
        raise TrainingError(f"{folder}: holds weights alone, training cannot be resumed from it")
    dtype = _dtype(trained.model)
    if described["dtype"] != dtype:
        raise TrainingError(f"{folder}: was saved in {described['dtype']}, this training is in {dtype}")
    if "layout" not in described:
        saved = distributed_checkpoint.load_training(folder, trained.model, trained.optimizer)
        _check_masters(folder, [(s, saved[s.parameter.name].view(-1)[s.start : s.stop]) for s in trained.shares()])
        return
    with ShardFiles(folder / TENSORS, _saved_layout(described)) as files:
        kept = trained.shares()
        for share in kept:
            for name, tensor in share.tensors.items():
                tensor.copy_(_read(folder, files, share.parameter, share.start, share.stop, name))
    fixes.set_step(trained.optimizer, described["adam_step"])
    _check_masters(folder, [(share, share.tensors[WEIGHT]) for share in kept])


@torch.no_grad()
def load_weights(folder: Path, model: Llama, own: Sequence[Parameter], shape: ModelShape) -> None:
    """Restore all of this process's weights, and nothing else. Collective. Raises `TrainingError` as `load` does."""
    described = check(folder, shape, model.outputs)
    if "layout" not in described:
        distributed_checkpoint.load_weights(folder, model)
        return
    targets = dict(model.named_parameters())
    with ShardFiles(folder / TENSORS, _saved_layout(described)) as files:
        for parameter in own:
            whole = _read(folder, files, parameter, 0, size(parameter), WEIGHT)
            targets[parameter.name].copy_(whole.view(targets[parameter.name].shape))


def _read(folder: Path, files: ShardFiles, wanted: Parameter, start: int, stop: int, state: str) -> torch.Tensor:
    try:
        return files.read(wanted, start, stop, state)
    except (ModelError, SafetensorError, OSError) as error:
        raise damaged(folder, str(error)) from error


def _check_masters(folder: Path, kept: Sequence[tuple[Share, torch.Tensor]]) -> None:
    """Each share's master weights, rounded, must be its weights: the next update computes the weights from the masters.

    Compared because it costs nothing beside reading, and finds any state that was saved or read at a wrong place.
    """
    wrong = [share.parameter.name for share, weight in kept if not master_is(share, weight)]
    everyone: list[list[str]] = [[]] * dist.get_world_size()
    dist.all_gather_object(everyone, wrong)
    for rank, names in enumerate(everyone):
        if names:
            raise TrainingError(
                f"{folder}: the optimizer's master weights are not the model's: {names[0]} and {len(names) - 1} more "
                f"on rank {rank}; it cannot be resumed from (docs/reliability.md, Earlier checkpoints)"
            )


def _described(trained: Trained) -> dict[str, Any]:
    """What `check` and `load` need to know."""
    place = parallel.place()
    return {
        "shape": trained.shape.model_dump(),
        "outputs": trained.model.outputs,
        "dtype": _dtype(trained.model),
        "optimizer": True,
        "adam_step": fixes.get_step(trained.optimizer),
        "layout": {"tensor": place.tensors, "pipeline": place.stages, "fused_norms": _fused_norms(trained.own)},
    }


def _dtype(model: Llama) -> str:
    return str(model.config.params_dtype).removeprefix("torch.")


def _fused_norms(own: Sequence[Parameter]) -> bool:
    return any(parameter.name.endswith("layer_norm_weight") for parameter in own)


def _saved_layout(described: Mapping[str, Any]) -> SavedLayout:
    layout, shape = described["layout"], ModelShape(**described["shape"])
    return SavedLayout(
        shape, layout["tensor"], layout["pipeline"], described["outputs"], fused_norms=layout["fused_norms"]
    )
