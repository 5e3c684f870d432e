# SPDX-License-Identifier: Apache-2.0
"""Load weights from Hugging Face folders and write them, a tensor at a time.

Each slice is read once; the files are shared out among the processes that write them; no process ever holds a full
model. This file knows safetensors files and their index; names and slices come from `mapping.py`.
"""

import contextlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from steerlm.attempt import check_current
from steerlm.errors import Interrupted, ModelError
from steerlm.files import atomic_path
from steerlm.megatron.mapping import ModelParallelRank, Parameter, Slice, fuse, parameters, split
from steerlm.models.shape import ModelShape
from steerlm.models.tensors import SCORE, model_tensors
from steerlm.models.weights import INDEX, StoredTensor

SHARD_BYTES = 5 * 10**9
log = logging.getLogger(__name__)


class WeightSource(Protocol):
    """Anything that weights are read from: a folder, or a random number generator."""

    def read(self, part: Slice) -> torch.Tensor:
        """Return the slice, on the CPU, in the source's dtype."""


class WeightFolder:
    """The weights of a Hugging Face model folder, from the files that `models.weights` names, opened when first read.

    Raises `ModelError` with the folder and the tensor that is missing or has another shape.
    """

    def __init__(self, path: Path, shape: ModelShape) -> None:
        self.path = path
        self._tensors = model_tensors(path, shape)
        self._stack = contextlib.ExitStack()
        self._open: dict[Path, Any] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def read(self, part: Slice) -> torch.Tensor:
        """Read one slice in the file's dtype, on the CPU. Raises `ModelError` if the tensor has another shape."""
        shape = self.shape(part.name)
        if shape != part.shape:
            raise ModelError(f"{self.path}: {part.name} has shape {list(shape)}, {list(part.shape)} was expected")
        view = self._view(part.name)
        if part.dim is None:
            tensor: torch.Tensor = view[:]
        else:
            tensor = view[part.start : part.stop] if part.dim == 0 else view[:, part.start : part.stop]
        return tensor

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a whole tensor, from the file's header."""
        return self._stored(name).shape

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype of a tensor that has at least one row."""
        row: torch.Tensor = self._view(name)[:1]
        return row.dtype

    def _stored(self, name: str) -> StoredTensor:
        if name not in self:
            kind = " (a reward model has no LM head)" if name == "lm_head.weight" and SCORE in self else ""
            raise ModelError(f"{self.path}: weight {name} is missing{kind}")
        return self._tensors[name]

    def _view(self, name: str) -> Any:
        stored = self._stored(name)
        try:
            if stored.file not in self._open:
                self._open[stored.file] = self._stack.enter_context(safe_open(stored.file, framework="pt"))
            return self._open[stored.file].get_slice(stored.name)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{stored.file}: cannot be read ({error}); fetch the model again") from None

    def close(self) -> None:
        """Close the opened files."""
        self._open.clear()
        self._stack.close()


def open_folder(path: Path, shape: ModelShape, model: torch.nn.Module) -> WeightFolder:
    """Open the folder that a model is loaded from. Collective: if one process cannot read its headers, all raise."""
    with _errors_on_all(next(model.parameters()).device):
        return WeightFolder(path, shape)


@torch.no_grad()
def load(model: torch.nn.Module, own: Sequence[Parameter], source: WeightSource, head: WeightSource) -> None:
    """Fill a process's `model` with its slices of `source`; the reward head's come from `head`. Collective.

    Each parameter is read by one data-parallel replica, all replicas reading at once, and broadcast to the others in
    the model's dtype. So are random weights: drawing them on a CPU takes longer than receiving them. A process holds
    one parameter besides its model. If one process cannot read its part, all of them raise.
    """
    targets = dict(model.named_parameters())
    if unmatched := targets.keys() ^ {parameter.name for parameter in own}:
        raise ModelError(f"the table of names does not fit the model: {', '.join(sorted(unmatched))}")
    group, device = parallel_state.get_data_parallel_group(), targets[own[0].name].device
    replicas, mine = dist.get_world_size(group), dist.get_rank(group)
    for first in range(0, _largest(len(own), device), replicas):
        turn = own[first : first + replicas]
        tensor = None
        with _errors_on_all(device):
            if mine < len(turn):
                parts = [(head if p.name == SCORE else source).read(p) for p in turn[mine].parts]
                tensor = fuse(parts, turn[mine].groups)
        for reader, parameter in enumerate(turn):
            target = targets[parameter.name]
            if tensor is not None and reader == mine:
                target.copy_(tensor)
            if replicas > 1:
                dist.broadcast(target.data, group=group, group_src=reader)


def _largest(number: int, device: torch.device) -> int:
    """Return the maximum of `number` over all processes."""
    largest = torch.tensor(number, device=device)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return int(largest.item())


@contextlib.contextmanager
def _errors_on_all(device: torch.device) -> Iterator[None]:
    """Raise an error of the block on every process; the others would otherwise wait in a broadcast forever."""
    error = None
    try:
        yield
    except Interrupted:  # a termination signal, which reaches the others too
        raise
    except Exception as caught:
        error = caught
    _raise_on_all(error, device)


def _raise_on_all(error: Exception | None, device: torch.device) -> None:
    """Raise on every process what one of them caught."""
    world = dist.get_world_size()
    failed = world - _largest(0 if error is None else world - dist.get_rank(), device)
    if failed == world:
        return
    if error is not None and not isinstance(error, ModelError):
        log.error("the weights cannot be read", exc_info=error)
    message = [str(error) if isinstance(error, ModelError) else f"rank {failed} cannot read the weights: {error!r}"]
    dist.broadcast_object_list(message, src=failed, device=device)
    raise ModelError(message[0]) from error


@dataclass(frozen=True, slots=True)
class WeightFile:
    """A file to write: its tensors in order, all of one pipeline stage, assembled by one tensor-parallel rank."""

    file: str
    stage: int
    owner: int
    names: tuple[str, ...]


def plan_shards(
    shape: ModelShape, outputs: int | None, tensors: int, stages: int, itemsize: int, limit: int
) -> list[WeightFile]:
    """Plan the files of a model and which rank writes each; at most `limit` bytes unless one tensor is larger. Pure."""
    groups: list[tuple[int, list[str]]] = []
    for stage in range(stages):
        names: list[str] = []
        size = 0
        for part in _owned(shape, ModelParallelRank(stage=stage, stages=stages), outputs):
            n = _bytes(part, itemsize)
            if names and size + n > limit:
                groups.append((stage, names))
                names, size = [], 0
            names.append(part.name)
            size += n
        groups.append((stage, names))
    return [
        WeightFile(f"model-{i + 1:05d}-of-{len(groups):05d}.safetensors", stage, i % tensors, tuple(names))
        for i, (stage, names) in enumerate(groups)
    ]


def _owned(shape: ModelShape, rank: ModelParallelRank, outputs: int | None) -> Iterator[Slice]:
    for parameter in parameters(shape, rank, outputs):
        if not parameter.copy:
            yield from parameter.parts


def _bytes(part: Slice, itemsize: int) -> int:
    return torch.Size(part.shape).numel() * itemsize


@torch.no_grad()
def write(
    model: torch.nn.Module,
    own: Sequence[Parameter],
    shape: ModelShape,
    rank: ModelParallelRank,
    outputs: int | None,
    folder: Path,
    limit: int = SHARD_BYTES,
) -> list[Path]:
    """Write the model's weights in their own dtype; collective. The main rank writes the index last.

    A tensor is assembled on the process that writes it, which holds at most one file's tensors at a time.

    Returns:
        The files that this process has written.

    Raises:
        SupersededError: A later attempt was started, on the process that has found it.
    """
    written: list[Path] = []
    folder.mkdir(parents=True, exist_ok=True)
    weights = dict(model.named_parameters())
    itemsize = next(iter(weights.values())).element_size()
    shards = plan_shards(shape, outputs, rank.tensors, rank.stages, itemsize, limit)
    if parallel_state.get_data_parallel_rank() == 0:
        holder = {part.name: (parameter, i) for parameter in own for i, part in enumerate(parameter.parts)}
        for shard in (shard for shard in shards if shard.stage == rank.stage):
            gathered: dict[str, torch.Tensor] = {}
            for name in shard.names:
                parameter, i = holder[name]
                local = split(weights[parameter.name], parameter)[i]
                whole = _gather(parameter.parts[i], local, rank, shard.owner)
                if whole is not None:
                    gathered[name] = whole.contiguous().cpu()
            if gathered:
                with atomic_path(folder / shard.file) as partial:
                    save_file(gathered, partial, metadata={"format": "pt"})
                    check_current()
                written.append(folder / shard.file)
    dist.barrier()
    if dist.get_rank() == 0:
        check_current()
        _write_index(folder, shards, shape, outputs, itemsize)
        written.append(folder / INDEX)
    dist.barrier()
    return written


def _gather(part: Slice, tensor: torch.Tensor, rank: ModelParallelRank, owner: int) -> torch.Tensor | None:
    """Return the whole tensor on tensor-parallel rank `owner`, None on the others."""
    if part.dim is None or rank.tensors == 1:
        return tensor if rank.tensor == owner else None
    group = parallel_state.get_tensor_model_parallel_group()
    slices = [torch.empty_like(tensor) for _ in range(rank.tensors)] if rank.tensor == owner else None
    dist.gather(tensor.contiguous(), slices, dst=dist.get_global_rank(group, owner), group=group)
    return torch.cat(slices, part.dim) if slices is not None else None


def _write_index(
    folder: Path, shards: Sequence[WeightFile], shape: ModelShape, outputs: int | None, itemsize: int
) -> None:
    weight_map = {name: shard.file for shard in shards for name in shard.names}
    total = sum(_bytes(part, itemsize) for part in _owned(shape, ModelParallelRank(), outputs))
    content = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(content, indent=1) + "\n")
