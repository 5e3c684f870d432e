# SPDX-License-Identifier: Apache-2.0
"""Megatron's own distributed checkpoints: weights for other programs, and training checkpoints of version 0.1.

The optimizer state in them is read but no longer written. megatron-core 0.16.1 saves parameters at wrong offsets as
soon as a gradient buffer has a padded bucket that is not its last (fixed upstream by pull request 5077, in no release
for this Python). `checkpoint.load` refuses checkpoints that were damaged in this way.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing.core import CheckpointingException
from torch.distributed.checkpoint.api import CheckpointException

from steerlm.errors import first_line
from steerlm.megatron import fixes
from steerlm.megatron.checkpoint_folder import MODEL, STATE, TENSORS, damaged, digest, prepare, raise_together, seal
from steerlm.megatron.model import ModelStage
from steerlm.models.shape import ModelShape

FULL = ("inline_container", "iostream error")
"""Texts of torch's errors for a file that it cannot write; it does not say that a disk is full."""

CONTENT = {
    "distrib_optim_sharding_type": "fully_reshardable",
    "singleton_local_shards": False,
    "chained_optim_avoid_prefix": True,
}


def save_weights(folder: Path, model: ModelStage, shape: ModelShape, companions: Callable[[], None]) -> None:
    """Write a checkpoint with only weights to `folder`, replacing its content. Collective; raises `TrainingError`.

    `companions` adds other files; the main rank calls it before the checkpoint is sealed.
    """
    prepare(folder)
    failure: list[str] = []
    with _collected(failure):
        dist_checkpointing.save(_sharded(model), str(folder / TENSORS), content_metadata=CONTENT)
        if dist.get_rank() == 0:
            companions()
    raise_together(folder, failure[0] if failure else None)
    description = {
        "shape": shape.model_dump(),
        "outputs": model.outputs,
        "dtype": str(model.config.params_dtype).removeprefix("torch."),
        "optimizer": False,
    }
    seal(folder, {str(path.relative_to(folder)): digest(path) for path in _written_here(folder)}, description, {})


def load_weights(folder: Path, model: ModelStage) -> None:
    """Restore weights. Collective; raises `TrainingError`."""
    model.load_state_dict(_load(folder, _sharded(model))["model"])


def load_training(folder: Path, model: ModelStage, optimizer: Any) -> dict[str, torch.Tensor]:
    """Restore weights and optimizer from a checkpoint of version 0.1; return the saved weights by name.

    In fp32 the optimizer's copy is the weight itself and takes precedence. Collective; raises `TrainingError`.
    """
    fixes.make_adam_state(optimizer)
    content = _sharded(model)
    metadata = {**CONTENT, "dp_cp_group": _group()}
    content["optimizer"] = optimizer.sharded_state_dict(content["model"], is_loading=True, metadata=metadata)
    loaded = _load(folder, content)
    model.load_state_dict(loaded["model"])
    weights = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    fixes.fit_param_groups(loaded["optimizer"], optimizer)
    optimizer.load_state_dict(loaded["optimizer"])
    fixes.unshare_step(optimizer)
    return weights


def _sharded(model: ModelStage) -> dict[str, Any]:
    return {"model": model.sharded_state_dict(metadata={**CONTENT, "dp_cp_group": _group()})}


def _group() -> Any:
    return parallel_state.get_data_parallel_group(with_context_parallel=True)


def _load(folder: Path, content: dict[str, Any]) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = dist_checkpointing.load(content, str(folder / TENSORS))
    except (CheckpointingException, CheckpointException) as error:  # megatron's, torch's (a BaseException)
        raise damaged(folder, str(error).strip().splitlines()[-1]) from error
    return loaded


def _written_here(folder: Path) -> list[Path]:
    """Return the files that this process wrote: megatron's are named by rank, all others are the main rank's."""
    mine = list((folder / TENSORS).glob(f"__{dist.get_rank()}_*"))
    if dist.get_rank() == 0:
        mine += [p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("__")]
    return [path for path in mine if path.name not in (MODEL, STATE)]


@contextmanager
def _collected(failure: list[str]) -> Iterator[None]:
    """Append the reason to `failure` if a checkpoint cannot be written."""
    try:
        yield
    except OSError as error:
        failure.append(str(error))
    except CheckpointException as error:  # raised on every process, with the reasons on the first
        reasons = [first_line(reason) for reason, _ in error.failures.values()]
        failure.append(reasons[0] if reasons else "a process could not write its part")
    except RuntimeError as error:
        if not any(text in str(error) for text in FULL):
            raise
        failure.append(first_line(error))
