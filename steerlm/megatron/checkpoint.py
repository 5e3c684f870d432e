"""Distributed checkpoints: weights, optimizer, the loop's state, readable in any layout. COMPLETE is written last."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing.core import CheckpointingException
from torch.distributed.checkpoint.api import CheckpointException

from steerlm.errors import TrainingError
from steerlm.megatron import fixes
from steerlm.megatron.model import Llama
from steerlm.models.shape import LlamaShape

COMPLETE = "COMPLETE"
STATE = "state.json"
MODEL = "model.json"
TENSORS = "tensors"

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
    """Write a checkpoint into `folder`, replacing what is there; collective.

    `optimizer` None: weights alone. `companions` adds other files; the first process calls it before COMPLETE.
    """
    if dist.get_rank() == 0:
        shutil.rmtree(folder, ignore_errors=True)
        (folder / TENSORS).mkdir(parents=True)
    dist.barrier()
    if optimizer is not None:
        fixes.make_adam_state(optimizer)
    content = _sharded(model, optimizer, loading=False)
    dist_checkpointing.save(content, str(folder / TENSORS), content_metadata=CONTENT)
    dist.barrier()
    if dist.get_rank() == 0:
        described = {
            "shape": shape.model_dump(),
            "outputs": model.outputs,
            "dtype": str(model.config.params_dtype).removeprefix("torch."),
            "optimizer": optimizer is not None,
        }
        (folder / STATE).write_text(json.dumps(dict(state or {})))
        (folder / MODEL).write_text(json.dumps(described, indent=1))
        if companions is not None:
            companions()
        (folder / COMPLETE).touch()
    dist.barrier()


def load(folder: Path, model: Llama, optimizer: Any, shape: LlamaShape) -> dict[str, Any]:
    """Restore weights and optimizer; returns the state given to `save`. Collective. Raises `TrainingError`."""
    if not _check(folder, model, shape)["optimizer"]:
        raise TrainingError(f"{folder}: holds weights alone, training cannot be resumed from it")
    fixes.make_adam_state(optimizer)
    loaded = _load(folder, _sharded(model, optimizer, loading=True))
    model.load_state_dict(loaded["model"])
    optimizer.load_state_dict(loaded["optimizer"])
    fixes.unshare_step(optimizer)
    state: dict[str, Any] = json.loads((folder / STATE).read_text())
    return state


def load_weights(folder: Path, model: Llama, shape: LlamaShape) -> None:
    """Restore the weights alone. Collective. Raises `TrainingError`."""
    _check(folder, model, shape)
    model.load_state_dict(_load(folder, _sharded(model, None, loading=True))["model"])


def describe(folder: Path) -> dict[str, Any]:
    """`shape` (of `LlamaShape`), `outputs` of the reward head or null, `dtype` of the weights in torch's name,
    `optimizer`: whether training can go on.

    Raises `TrainingError` if the checkpoint is not complete.
    """
    if not (folder / COMPLETE).exists():
        raise TrainingError(f"{folder}: not a complete checkpoint ({COMPLETE} is missing)")
    described: dict[str, Any] = json.loads((folder / MODEL).read_text())
    return described


def _check(folder: Path, model: Llama, shape: LlamaShape) -> dict[str, Any]:
    described = describe(folder)
    if (LlamaShape(**described["shape"]), described["outputs"]) != (shape, model.outputs):
        raise TrainingError(
            f"{folder}: is of another model: {described['shape']} with {described['outputs']} outputs, "
            f"not {shape.model_dump()} with {model.outputs}"
        )
    return described


def _load(folder: Path, content: dict[str, Any]) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = dist_checkpointing.load(content, str(folder / TENSORS))
    except (CheckpointingException, CheckpointException) as error:  # megatron's, torch's (a BaseException)
        reason = str(error).strip().splitlines()[-1]
        raise TrainingError(f"{folder}: the checkpoint is damaged ({reason}); delete it") from error
    return loaded


def _sharded(model: Llama, optimizer: Any | None, loading: bool) -> dict[str, Any]:
    group = parallel_state.get_data_parallel_group(with_context_parallel=True)
    metadata = {**CONTENT, "dp_cp_group": group}
    weights = model.sharded_state_dict(metadata=metadata)
    content: dict[str, Any] = {"model": weights}
    if optimizer is not None:
        content["optimizer"] = optimizer.sharded_state_dict(weights, is_loading=loading, metadata=metadata)
    return content
