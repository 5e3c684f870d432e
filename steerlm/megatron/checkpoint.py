# SPDX-License-Identifier: Apache-2.0
"""Training checkpoints: every process writes its own share, and any layout resumes from them.

A process holds 1/DP of the optimizer state of its part of the model: its share (`shares.py`). It writes that share, and
the same ranges of the weights, to a file of its own: no process waits for another, none holds more than its share, and
no byte is written twice. Loading maps the parameters of this layout to those of the layout that saved
(`resharding.py`), so the data, tensor and pipeline parallel sizes may all differ. docs/design.md says why megatron's
own format is not used.
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

from steerlm.errors import ModelError, SupersededError, TrainingError
from steerlm.megatron import distributed_checkpoint, fixes, parallel, shard_files
from steerlm.megatron.checkpoint_folder import TENSORS, check, damaged, digest, prepare, raise_together, seal
from steerlm.megatron.host_copies import HostCopies
from steerlm.megatron.mapping import Parameter
from steerlm.megatron.model import ModelStage
from steerlm.megatron.resharding import SavedLayout, size
from steerlm.megatron.shard_files import ShardFiles
from steerlm.megatron.shares import WEIGHT, Share, matches_master, shares
from steerlm.models.shape import ModelShape
from steerlm.training.engine import SaveResult


@dataclass(frozen=True, slots=True)
class TrainableModel:
    """This process's part of a model in training: module, parameter table, megatron's optimizer."""

    model: ModelStage
    own: Sequence[Parameter]
    optimizer: Any
    shape: ModelShape

    def shares(self) -> list[Share]:
        """Return this process's share of each parameter and its optimizer state, as views of the live tensors."""
        return list(shares(self.model, self.optimizer, self.own))


class PendingCheckpoint:
    """A checkpoint that is being written. `copy_seconds`: how long training waited for the copy to host memory."""

    def __init__(
        self, folder: Path, copy_seconds: float, written: "Future[_Written]", seal: Callable[["_Written"], None]
    ):
        self.folder, self.copy_seconds = folder, copy_seconds
        self._written, self._seal = written, seal

    @property
    def running(self) -> bool:
        """Whether this process is still writing its file."""
        return not self._written.done()

    def finish(self) -> SaveResult:
        """Seal the checkpoint. Collective; every process must have finished writing.

        Raises:
            TrainingError: A process could not write its file. Raised on all of them.
            SupersededError: A later attempt was started. Raised on all of them.
        """
        written: _Written | None = None
        reason: str | SupersededError | None = None
        try:
            written = self._written.result()
        except (OSError, SafetensorError) as error:
            reason = str(error)
        except SupersededError as error:
            reason = error
        raise_together(self.folder, reason)
        assert written is not None
        self._seal(written)
        return SaveResult(self.folder, written.digest[0], self.copy_seconds, written.seconds)


@dataclass(frozen=True, slots=True)
class _Written:
    name: str
    digest: tuple[int, str]
    seconds: float


class CheckpointWriter:
    """Writes the checkpoints of one training, one at a time."""

    def __init__(self) -> None:
        self._copies = HostCopies()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")

    def start(self, folder: Path, training: TrainableModel, state: Mapping[str, Any]) -> PendingCheckpoint:
        """Copy this process's share to host memory and start writing it.

        Collective; the previous checkpoint must be finished.
        """
        started = time.perf_counter()
        prepare(folder)
        own_shares = training.shares()
        live = {f"{name}/{share.parameter.name}": t for share in own_shares for name, t in share.tensors.items()}
        copies = self._copies.take(live)
        ranges = {share.parameter.name: (share.start, share.stop) for share in own_shares}
        replica = parallel_state.get_data_parallel_rank()
        name = f"{TENSORS}/{shard_files.file_name(parallel.model_parallel_rank(), replica)}"
        description = _description(training)
        copy_seconds = time.perf_counter() - started

        def write() -> _Written:
            started = time.perf_counter()
            shard_files.write(folder / name, copies, ranges)
            return _Written(name, digest(folder / name), time.perf_counter() - started)

        def complete(written: _Written) -> None:
            seal(folder, {written.name: written.digest}, description, state)

        return PendingCheckpoint(folder, copy_seconds, self._thread.submit(write), complete)


def load(folder: Path, training: TrainableModel) -> None:
    """Restore this process's share of weights and optimizer; the caller gathers the weights. Collective.

    Raises:
        TrainingError: On every process. Before anything is changed, if the checkpoint is incomplete, damaged or of
            another model; after loading, if the master weights do not match the model's weights.
    """
    description = check(folder, training.shape, training.model.outputs)
    if not description["optimizer"]:
        raise TrainingError(f"{folder}: has only weights, training cannot be resumed from it")
    dtype = _dtype(training.model)
    if description["dtype"] != dtype:
        raise TrainingError(f"{folder}: was saved in {description['dtype']}, this training is in {dtype}")
    if "layout" not in description:
        saved = distributed_checkpoint.load_training(folder, training.model, training.optimizer)
        _check_masters(folder, [(s, saved[s.parameter.name].view(-1)[s.start : s.stop]) for s in training.shares()])
        return
    with ShardFiles(folder / TENSORS, _saved_layout(description)) as files:
        own_shares = training.shares()
        for share in own_shares:
            for name, tensor in share.tensors.items():
                tensor.copy_(_read(folder, files, share.parameter, share.start, share.stop, name))
    fixes.set_step(training.optimizer, description["adam_step"])
    _check_masters(folder, [(share, share.tensors[WEIGHT]) for share in own_shares])


@torch.no_grad()
def load_weights(folder: Path, model: ModelStage, own: Sequence[Parameter], shape: ModelShape) -> None:
    """Restore all weights of this process and nothing else. Collective; raises `TrainingError` as `load` does."""
    description = check(folder, shape, model.outputs)
    if "layout" not in description:
        distributed_checkpoint.load_weights(folder, model)
        return
    targets = dict(model.named_parameters())
    with ShardFiles(folder / TENSORS, _saved_layout(description)) as files:
        for parameter in own:
            whole = _read(folder, files, parameter, 0, size(parameter), WEIGHT)
            targets[parameter.name].copy_(whole.view(targets[parameter.name].shape))


def _read(folder: Path, files: ShardFiles, wanted: Parameter, start: int, stop: int, state: str) -> torch.Tensor:
    try:
        return files.read(wanted, start, stop, state)
    except (ModelError, SafetensorError, OSError) as error:
        raise damaged(folder, str(error)) from error


def _check_masters(folder: Path, weights: Sequence[tuple[Share, torch.Tensor]]) -> None:
    """Check that each share's master weights, rounded, are its weights.

    The next update computes the weights from the masters. The check costs nothing compared with reading, and finds any
    state that was saved or read at a wrong offset.
    """
    wrong = [share.parameter.name for share, weight in weights if not matches_master(share, weight)]
    by_rank: list[list[str]] = [[]] * dist.get_world_size()
    dist.all_gather_object(by_rank, wrong)
    for rank, names in enumerate(by_rank):
        if names:
            raise TrainingError(
                f"{folder}: the optimizer's master weights are not the model's: {names[0]} and {len(names) - 1} more "
                f"on rank {rank}; training cannot be resumed from it (docs/reliability.md, Earlier checkpoints)"
            )


def _description(training: TrainableModel) -> dict[str, Any]:
    """Return what `check` and `load` read from `model.json`."""
    rank = parallel.model_parallel_rank()
    return {
        "shape": training.shape.model_dump(),
        "outputs": training.model.outputs,
        "dtype": _dtype(training.model),
        "optimizer": True,
        "adam_step": fixes.get_step(training.optimizer),
        "layout": {"tensor": rank.tensors, "pipeline": rank.stages, "fused_norms": _fused_norms(training.own)},
    }


def _dtype(model: ModelStage) -> str:
    return str(model.config.params_dtype).removeprefix("torch.")


def _fused_norms(own: Sequence[Parameter]) -> bool:
    return any(parameter.name.endswith("layer_norm_weight") for parameter in own)


def _saved_layout(description: Mapping[str, Any]) -> SavedLayout:
    layout, shape = description["layout"], ModelShape(**description["shape"])
    return SavedLayout(
        shape, layout["tensor"], layout["pipeline"], description["outputs"], fused_norms=layout["fused_norms"]
    )
