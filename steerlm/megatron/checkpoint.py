"""Distributed checkpoints: weights, optimizer, the loop's state, readable in any layout.

COMPLETE is written last and lists every file with its size and sha256. They are compared before anything is loaded: a
changed byte in a tensor would load without an error.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing.core import CheckpointingException
from torch.distributed.checkpoint.api import CheckpointException

from steerlm.errors import TrainingError, first_line
from steerlm.megatron import fixes
from steerlm.megatron.model import Llama
from steerlm.models.shape import LlamaShape
from steerlm.records import write_json
from steerlm.storage import sha256_file
from steerlm.training.checkpoints import COMPLETE

STATE = "state.json"
MODEL = "model.json"
TENSORS = "tensors"

FULL = ("inline_container", "iostream error")
"""What torch's writer says of a file that it cannot write; a full disk is not named."""

CONTENT = {
    "distrib_optim_sharding_type": "fully_reshardable",  # the only one that loads in every layout
    "singleton_local_shards": False,
    "chained_optim_avoid_prefix": True,
}


def save(
    folder: Path,
    model: Llama,
    optimizer: Any | None,
    shape: LlamaShape,
    state: Mapping[str, Any] | None = None,
    companions: Callable[[], None] | None = None,
) -> None:
    """Write a checkpoint into `folder`, replacing what is there; collective. Raises `TrainingError`.

    `optimizer` None: weights alone. `companions` adds other files; the first process calls it before COMPLETE.
    """
    chief = dist.get_rank() == 0
    if optimizer is not None:
        fixes.make_adam_state(optimizer)
    with _writing(folder):
        if chief:
            # The marker goes first: a deletion that is cut short must not leave a checkpoint that looks whole.
            (folder / COMPLETE).unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
            (folder / TENSORS).mkdir(parents=True)
        dist.barrier()
        content = _sharded(model, optimizer, loading=False)
        dist_checkpointing.save(content, str(folder / TENSORS), content_metadata=CONTENT)
        if chief:
            described = {
                "shape": shape.model_dump(),
                "outputs": model.outputs,
                "dtype": str(model.config.params_dtype).removeprefix("torch."),
                "optimizer": optimizer is not None,
            }
            write_json(folder / STATE, dict(state or {}))
            write_json(folder / MODEL, described)
            if companions is not None:
                companions()
        mine = {str(path.relative_to(folder)): _digest(path) for path in _written_here(folder)}
        everyone: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, mine)
        if chief:
            write_json(folder / COMPLETE, {"files": {name: each[name] for each in everyone for name in sorted(each)}})
    dist.barrier()


def state_of(folder: Path) -> dict[str, Any]:
    """The state given to `save`. Raises `TrainingError` if it is not complete or not what was written."""
    describe(folder)
    try:
        files = json.loads((folder / COMPLETE).read_text())["files"]
        found = next(_differences(folder, [(STATE, files[STATE])]), None)
        state: dict[str, Any] = {} if found else json.loads((folder / STATE).read_text())
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise _damaged(folder, f"{COMPLETE} does not list its files: {error}") from error
    if found:
        raise _damaged(folder, found)
    return state


def load(folder: Path, model: Llama, optimizer: Any, shape: LlamaShape) -> None:
    """Restore weights and optimizer. Collective.

    Raises `TrainingError`, on every process alike, before anything is changed.
    """
    if not _check(folder, model, shape)["optimizer"]:
        raise TrainingError(f"{folder}: holds weights alone, training cannot be resumed from it")
    fixes.make_adam_state(optimizer)
    loaded = _load(folder, _sharded(model, optimizer, loading=True))
    model.load_state_dict(loaded["model"])
    fixes.fit_param_groups(loaded["optimizer"], optimizer)
    optimizer.load_state_dict(loaded["optimizer"])
    fixes.unshare_step(optimizer)


def load_weights(folder: Path, model: Llama, shape: LlamaShape) -> None:
    """Restore the weights alone. Collective. Raises `TrainingError` as `load` does."""
    _check(folder, model, shape)
    model.load_state_dict(_load(folder, _sharded(model, None, loading=True))["model"])


def describe(folder: Path) -> dict[str, Any]:
    """`shape` (of `LlamaShape`), `outputs` of the reward head or null, `dtype` of the weights in torch's name,
    `optimizer`: whether training can go on.

    Raises `TrainingError` if the checkpoint is not complete.
    """
    if not (folder / COMPLETE).exists():
        raise TrainingError(f"{folder}: not a complete checkpoint ({COMPLETE} is missing)")
    try:
        described: dict[str, Any] = json.loads((folder / MODEL).read_text())
    except (OSError, ValueError) as error:
        raise _damaged(folder, f"{MODEL}: {error}") from error
    return described


def _check(folder: Path, model: Llama, shape: LlamaShape) -> dict[str, Any]:
    described = describe(folder)
    wanted = {"outputs": model.outputs, **shape.model_dump()}
    found = {"outputs": described["outputs"], **LlamaShape(**described["shape"]).model_dump()}
    others = [f"{name} {found[name]}, here {value}" for name, value in wanted.items() if found[name] != value]
    if others:
        raise TrainingError(f"{folder}: is of another model ({'; '.join(others)})")
    _verify(folder)
    return described


def _verify(folder: Path) -> None:
    """Compare every file with COMPLETE; each process reads its share, all raise what the first one finds."""
    rank, world = dist.get_rank(), dist.get_world_size()
    try:
        files = json.loads((folder / COMPLETE).read_text())["files"]
        found = next(_differences(folder, sorted(files.items())[rank::world]), None)
    except (OSError, ValueError, TypeError, KeyError) as error:
        found = f"{COMPLETE} does not list its files: {error}"
    everyone: list[str | None] = [None] * world
    dist.all_gather_object(everyone, found)
    for reason in filter(None, everyone):
        raise _damaged(folder, reason)


def _differences(folder: Path, files: Iterable[tuple[str, list[Any]]]) -> Iterator[str]:
    for name, (size, digest) in files:
        path = folder / name
        if not path.is_file():
            yield f"{name} is missing"
        elif path.stat().st_size != size:
            yield f"{name} has {path.stat().st_size} bytes, {size} were written"
        elif _digest(path) != [size, digest]:
            yield f"{name} is not what was written: its sha256 differs"


def _damaged(folder: Path, reason: str) -> TrainingError:
    return TrainingError(f"{folder}: the checkpoint is damaged ({reason}); delete it to go on from the one before it")


def _written_here(folder: Path) -> list[Path]:
    """The files that this process wrote: megatron puts the rank into their names; all others are the first one's."""
    rank = dist.get_rank()
    mine = list((folder / TENSORS).glob(f"__{rank}_*"))
    if rank == 0:
        mine += [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("__")]
    return mine


def _digest(path: Path) -> list[Any]:
    """[bytes, sha256 in hex]."""
    return [path.stat().st_size, sha256_file(path)]


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Says in one line why a checkpoint could not be written; what there is of it lacks COMPLETE."""

    def failed(reason: object) -> TrainingError:
        free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
        return TrainingError(
            f"{folder}: the checkpoint could not be saved ({reason}); {free / 1e6:.1f} MB are free there"
        )

    try:
        yield
    except OSError as error:
        raise failed(error) from error
    except CheckpointException as error:  # every process gets one, the first one gets the reasons
        reasons = [first_line(failure) for failure, _ in error.failures.values()]
        raise failed(reasons[0] if reasons else "a process could not write its part, the first one says why") from error
    except RuntimeError as error:
        if not any(text in str(error) for text in FULL):
            raise
        raise failed(first_line(error)) from error


def _load(folder: Path, content: dict[str, Any]) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = dist_checkpointing.load(content, str(folder / TENSORS))
    except (CheckpointingException, CheckpointException) as error:  # megatron's, torch's (a BaseException)
        raise _damaged(folder, str(error).strip().splitlines()[-1]) from error
    return loaded


def _sharded(model: Llama, optimizer: Any | None, loading: bool) -> dict[str, Any]:
    group = parallel_state.get_data_parallel_group(with_context_parallel=True)
    metadata = {**CONTENT, "dp_cp_group": group}
    weights = model.sharded_state_dict(metadata=metadata)
    content: dict[str, Any] = {"model": weights}
    if optimizer is not None:
        content["optimizer"] = optimizer.sharded_state_dict(weights, is_loading=loading, metadata=metadata)
    return content
