# SPDX-License-Identifier: Apache-2.0
"""The files of every checkpoint folder beside its tensors: model description, the loop's state, a sealed file list.

COMPLETE is written last and lists every file with its size and sha256. They are verified before anything is loaded, as
a changed byte in a tensor would load without an error.
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist

from steerlm.attempt import check_current
from steerlm.checksums import sha256_file
from steerlm.errors import SupersededError, TrainingError
from steerlm.files import write_json
from steerlm.models.shape import ModelShape
from steerlm.training.checkpoints import COMPLETE

STATE = "state.json"
MODEL = "model.json"
TENSORS = "tensors"

Digests = Mapping[str, tuple[int, str]]
"""By file name relative to the folder: bytes, sha256 in hex."""


def prepare(folder: Path) -> None:
    """Make `folder` empty but for a subfolder for tensors. Collective; raises as `raise_together` does."""
    reason: str | SupersededError | None = None
    if dist.get_rank() == 0:
        try:
            check_current()  # the folder may be a later attempt's checkpoint of the same step
            # The marker is deleted first: an interrupted deletion must not leave a checkpoint that looks complete.
            (folder / COMPLETE).unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
            (folder / TENSORS).mkdir(parents=True)
        except OSError as error:
            reason = str(error)
        except SupersededError as error:
            reason = error
    raise_together(folder, reason)


def seal(folder: Path, written: Digests, description: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Complete a checkpoint: the main rank writes the description, the loop's state and COMPLETE. Collective.

    `written`: the files that this process wrote. Raises as `raise_together` does.
    """
    by_rank: list[Digests] = [{}] * dist.get_world_size()
    dist.all_gather_object(by_rank, dict(written))
    reason: str | SupersededError | None = None
    if dist.get_rank() == 0:
        try:
            check_current()
            write_json(folder / MODEL, description)
            write_json(folder / STATE, state)
            files = {name: each[name] for each in by_rank for name in sorted(each)}
            files |= {name: digest(folder / name) for name in (MODEL, STATE)}
            write_json(folder / COMPLETE, {"files": files})
        except OSError as error:
            reason = str(error)
        except SupersededError as error:
            reason = error
    raise_together(folder, reason)


def raise_together(folder: Path, reason: str | SupersededError | None) -> None:
    """Raise an error on every process if one of them failed to save; `reason`: of this one. Collective.

    The unfinished checkpoint has no COMPLETE.

    Raises:
        SupersededError: A process has found a later attempt.
        TrainingError: Any other reason.
    """
    reasons: list[str | SupersededError | None] = [None] * dist.get_world_size()
    dist.all_gather_object(reasons, reason)
    for rank, one in enumerate(reasons):
        if isinstance(one, SupersededError):
            raise one
        if one is not None:
            free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
            raise TrainingError(
                f"{folder}: the checkpoint could not be saved (rank {rank}: {one}); {free / 1e6:.1f} MB are free there"
            )


def describe(folder: Path) -> dict[str, Any]:
    """Return the description of a checkpoint's model.

    Returns:
        `shape`: fields of `ModelShape`; `outputs`: of the reward head, or None; `dtype`: of the weights, torch's name;
        `optimizer`: whether training can be resumed from it; `layout`: only in training checkpoints, that which saved.

    Raises:
        TrainingError: The checkpoint is not complete.
    """
    if not (folder / COMPLETE).exists():
        raise TrainingError(f"{folder}: not a complete checkpoint ({COMPLETE} is missing)")
    try:
        description: dict[str, Any] = json.loads((folder / MODEL).read_text())
    except (OSError, ValueError) as error:
        raise damaged(folder, f"{MODEL}: {error}") from error
    return description


def state_of(folder: Path) -> dict[str, Any]:
    """Return the state given to `seal`. Raises `TrainingError` if the checkpoint is incomplete or damaged."""
    describe(folder)
    try:
        files = json.loads((folder / COMPLETE).read_text())["files"]
        difference = next(_differences(folder, [(STATE, files[STATE])]), None)
        state: dict[str, Any] = {} if difference else json.loads((folder / STATE).read_text())
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise damaged(folder, f"{COMPLETE} does not list its files: {error}") from error
    if difference:
        raise damaged(folder, difference)
    return state


def check(folder: Path, shape: ModelShape, outputs: int | None) -> dict[str, Any]:
    """Check that a checkpoint fits the model and that its files are intact; return its description.

    Collective. Raises `TrainingError` on every process.
    """
    description = describe(folder)
    expected = {"outputs": outputs, **shape.model_dump()}
    saved = {"outputs": description["outputs"], **ModelShape(**description["shape"]).model_dump()}
    different = [f"{name} {saved[name]}, here {value}" for name, value in expected.items() if saved[name] != value]
    if different:
        raise TrainingError(f"{folder}: is a checkpoint of another model ({'; '.join(different)})")
    _verify(folder)
    return description


def _verify(folder: Path) -> None:
    """Compare every file with COMPLETE. Each process reads some of them; all raise the first difference."""
    rank, world = dist.get_rank(), dist.get_world_size()
    try:
        files = json.loads((folder / COMPLETE).read_text())["files"]
        difference = next(_differences(folder, sorted(files.items())[rank::world]), None)
    except (OSError, ValueError, TypeError, KeyError) as error:
        difference = f"{COMPLETE} does not list its files: {error}"
    differences: list[str | None] = [None] * world
    dist.all_gather_object(differences, difference)
    for reason in filter(None, differences):
        raise damaged(folder, reason)


def _differences(folder: Path, files: Iterable[tuple[str, list[Any]]]) -> Iterator[str]:
    for name, (size, sha256) in files:
        path = folder / name
        if not path.is_file():
            yield f"{name} is missing"
        elif path.stat().st_size != size:
            yield f"{name} has {path.stat().st_size} bytes, {size} were written"
        elif digest(path) != (size, sha256):
            yield f"{name} is not what was written: its sha256 differs"


def damaged(folder: Path, reason: str) -> TrainingError:
    """Return the error for a checkpoint that is incomplete or whose bytes changed; the caller raises it."""
    return TrainingError(f"{folder}: the checkpoint is damaged ({reason}); delete it to resume from the one before it")


def digest(path: Path) -> tuple[int, str]:
    """Return (bytes, sha256 in hex) of a file."""
    return path.stat().st_size, sha256_file(path)
