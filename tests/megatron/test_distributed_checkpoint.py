# SPDX-License-Identifier: Apache-2.0
"""Trainings begun by version 0.1: sound checkpoints resume, those that megatron damaged while saving are refused."""

from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from megatron.core import dist_checkpointing

from steerlm.errors import TrainingError
from steerlm.megatron import distributed_checkpoint, fixes
from steerlm.megatron.checkpoint_folder import TENSORS, digest, prepare, seal
from steerlm.megatron.engine import MegatronEngine
from tests.megatron.forked import ranks
from tests.megatron.material import GQA, OUTPUTS, curve, engine

LAYOUT = {"devices": 2}


def save_as_version_0_1(of: MegatronEngine, folder: Path) -> None:
    """The sharding that gathers the optimizer's state; megatron slices it with the padding of buckets still counted."""
    of.gather_weights()
    prepare(folder)
    fixes.make_adam_state(of.optimizer)
    content = distributed_checkpoint._sharded(of.model)
    metadata = {**distributed_checkpoint.CONTENT, "dp_cp_group": distributed_checkpoint._group()}
    content["optimizer"] = of.optimizer.sharded_state_dict(content["model"], metadata=metadata)
    dist_checkpointing.save(content, str(folder / TENSORS), content_metadata=distributed_checkpoint.CONTENT)
    described: dict[str, Any] = {"shape": of.shape.model_dump(), "outputs": of.outputs, "optimizer": True}
    described["dtype"] = str(of.model.config.params_dtype).removeprefix("torch.")
    files = {str(path.relative_to(folder)): digest(path) for path in distributed_checkpoint._written_here(folder)}
    seal(folder, files, described, {"step": 3})


def _saved_and_loaded(folder: Path, precision: str, bucket_size: int | None) -> Any:
    layout = {**LAYOUT, "bucket_size": bucket_size}
    of = engine(GQA, OUTPUTS, layout=layout, precision=precision)
    curve(of, OUTPUTS, range(3))
    save_as_version_0_1(of, folder)
    wanted = curve(of, OUTPUTS, range(3, 5))
    of = engine(GQA, OUTPUTS, layout=layout, precision=precision, seed=99)
    assert of.read_state(folder) == {"step": 3}
    try:
        of.load(folder)
    except TrainingError as error:
        return str(error)
    assert curve(of, OUTPUTS, range(3, 5)) == wanted
    return None


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_sound_one_resumes_and_a_damaged_one_is_refused(tmp_path: Path, precision: str) -> None:
    assert ranks(2, _saved_and_loaded, tmp_path / "one bucket", precision, None) == [None, None]
    refused = ranks(2, _saved_and_loaded, tmp_path / "padded buckets", precision, 9000)
    assert refused[0] == refused[1]
    assert "the optimizer's master weights are not the model's: " in refused[0]
    assert any(name in refused[0] for name in ("linear", "embedding", "norm"))


def _companions(folder: Path) -> None:
    if dist.get_rank() == 0:
        raise OSError("no space")


def _no_space(folder: Path) -> str:
    of = engine(GQA)
    with pytest.raises(TrainingError) as caught:
        distributed_checkpoint.save_weights(folder, of.model, GQA, lambda: _companions(folder))
    return str(caught.value)


def test_what_the_disk_refuses_is_raised_on_every_rank(tmp_path: Path) -> None:
    (said,) = ranks(1, _no_space, tmp_path / "weights")
    assert "the checkpoint could not be saved (rank 0: no space)" in said
