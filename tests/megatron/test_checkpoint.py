# SPDX-License-Identifier: Apache-2.0
"""Resume: the curve goes on to the sixth digit, in this layout and in others; what is not a checkpoint is refused."""

import json
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file

from steerlm.errors import TrainingError
from steerlm.megatron import shard_files
from steerlm.megatron.checkpoint_folder import digest
from steerlm.training.layout import LayoutSettings
from tests.megatron.forked import one, ranks
from tests.megatron.material import GQA, OUTPUTS, SHAPES, curve, engine, objective, packed, same, samples, weights

STATE = {"step": 3, "consumed": 27, "note": "é"}
LAYOUTS: dict[str, dict[str, Any]] = {
    "one": {},
    "dp2": {"devices": 2},
    "dp4": {"devices": 4},
    "tp2 sp": {"devices": 2, "tensor": 2, "sequence_parallel": True},
    "pp2": {"devices": 2, "pipeline": 2},
    "tp2 pp2 dp2": {"nodes": 2, "devices": 4, "tensor": 2, "pipeline": 2},
}
Curve = list[tuple[float, float]]


def _whole(folder: Path, outputs: int | None, layout: dict[str, Any], precision: str) -> Curve:
    """Five steps, a checkpoint after three; the checkpoint must not disturb."""
    of = engine(outputs=outputs, layout=layout, precision=precision)
    losses = curve(of, outputs, range(3))
    of.save(folder / "step", STATE)
    of.write_hf(folder / "saved")
    losses += curve(of, outputs, range(3, 5))  # while the file is being written
    of.finish_save()
    return losses


def _resumed(folders: list[Path], outputs: int | None, layout: dict[str, Any], precision: str) -> list[Curve]:
    """From each checkpoint on, all in one engine: what is loaded replaces everything that was there."""
    of = engine(outputs=outputs, layout=layout, precision=precision, seed=99)
    curve(of, outputs, range(50, 51))
    found = []
    for folder in folders:
        assert of.read_state(folder / "step") == STATE
        of.load(folder / "step")
        of.write_hf(folder / f"loaded-{layout}")
        if of.layout.rank == 0:
            same(folder / f"loaded-{layout}", folder / "saved")
        found.append(curve(of, outputs, range(3, 5)))
        (steps,) = {float(state["step"]) for state in of.optimizer.optimizer.state.values()}
        assert steps == 5
    return found


def _goes_on(pairs: dict[str, list[str]], outputs: int | None, folder: Path, precision: str = "fp32") -> None:
    """The weights to the last bit, the curve to the sixth digit; in the same layout to the last bit."""
    wholes = {}
    for name in {name for saved in pairs.values() for name in saved}:
        (folder / name).mkdir()
        count = LayoutSettings(**LAYOUTS[name]).processes
        wholes[name] = ranks(count, _whole, folder / name, outputs, LAYOUTS[name], precision)[0][3:]
    for name, saved in pairs.items():
        count = LayoutSettings(**LAYOUTS[name]).processes
        folders = [folder / n for n in saved]
        for found in ranks(count, _resumed, folders, outputs, LAYOUTS[name], precision):
            for of, losses in zip(saved, found, strict=True):
                if of == name:
                    assert losses == wholes[of]
                for (loss, norm), (wanted_loss, wanted_norm) in zip(losses, wholes[of], strict=True):
                    assert loss == pytest.approx(wanted_loss, abs=1e-6), (of, name)
                    assert norm == pytest.approx(wanted_norm, rel=1e-5), (of, name)


def test_every_layout_goes_on_from_every_layouts_checkpoint(tmp_path: Path) -> None:
    _goes_on({name: list(LAYOUTS) for name in LAYOUTS}, None, tmp_path)


def test_a_reward_model_goes_on_in_another_layout(tmp_path: Path) -> None:
    _goes_on({"tp2 sp": ["one"], "pp2": ["tp2 sp"], "one": ["tp2 sp"]}, OUTPUTS, tmp_path)


def test_resume_in_bf16_restores_the_masters(tmp_path: Path) -> None:
    _goes_on({"one": ["one"]}, None, tmp_path, "bf16")


def _best(folder: Path) -> None:
    of = engine(SHAPES["tied"], precision="bf16")
    curve(of, None, range(2))
    of.save(folder / "best", {})
    of.finish_save()
    of.write_hf(folder / "saved")
    curve(of, None, range(2, 4))
    of.load_weights(folder / "best")
    of.write_hf(folder / "loaded")
    assert of.step(packed(samples(0)), objective(None), 0.0).loss > 0
    of.write_hf(folder / "stepped")


def test_the_best_weights_alone(tmp_path: Path) -> None:
    one(_best, tmp_path)
    saved, loaded, stepped = (weights(tmp_path / name) for name in ("saved", "loaded", "stepped"))
    # The last: the optimizer's masters follow, else a step would bring the old weights back.
    assert all(torch.equal(saved[name], loaded[name]) and torch.equal(saved[name], stepped[name]) for name in saved)


def _refused(folder: Path) -> None:
    of = engine(GQA)
    of.save(folder / "one", {})
    of.save(folder / "one", {"again": True})
    of.finish_save()
    assert of.read_state(folder / "one") == {"again": True}
    of.load(folder / "one")
    with pytest.raises(TrainingError, match=r"another model \(num_key_value_heads 2, here 4\)"):
        engine(SHAPES["mha"]).load(folder / "one")
    with pytest.raises(TrainingError, match=r"another model \(outputs None, here 9\)"):
        engine(GQA, OUTPUTS).load_weights(folder / "one")
    (folder / "one" / "COMPLETE").unlink()
    for read in (of.read_state, of.load):
        with pytest.raises(TrainingError, match="COMPLETE is missing"):
            read(folder / "one")


def test_what_is_not_a_checkpoint_of_this_model_is_refused(tmp_path: Path) -> None:
    one(_refused, tmp_path)


def _shard(folder: Path) -> Path:
    return folder / "tensors" / "tensor-01-stage-00-replica-0000.safetensors"


def _truncate(folder: Path) -> None:
    path = _shard(folder)
    path.write_bytes(path.read_bytes()[:-100])


def _flip(folder: Path) -> None:
    path = _shard(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


FILE = "tensor-01-stage-00-replica-0000.safetensors"
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated shard": (_truncate, rf"{FILE} has \d+ bytes, \d+ were written"),
    "one bit of a shard": (
        _flip,
        rf"{FILE} is not what was written: its sha256 differs",
    ),
    "no shard": (lambda folder: _shard(folder).unlink(), rf"{FILE} is missing"),
    "state of another save": (lambda f: (f / "state.json").write_text('{"step": 7}'), "state.json has 11 bytes"),
    "no description": (lambda folder: (folder / "model.json").write_text("{"), "model.json: "),
    "empty marker": (lambda folder: (folder / "COMPLETE").write_text(""), "COMPLETE does not list its files"),
}


def _damaged(folder: Path) -> dict[str, str]:
    of, said = engine(layout={"devices": 2, "tensor": 2}), {}
    curve(of, None, range(1))
    of.save(folder / "sound", STATE)
    of.finish_save()
    curve(of, None, range(1, 2))
    of.write_hf(folder / "before")
    for name, (damage, _) in DAMAGE.items():
        if of.layout.rank == 0:
            shutil.copytree(folder / "sound", folder / name)
            damage(folder / name)
        dist.barrier()
        with pytest.raises(TrainingError) as caught:
            of.load(folder / name)
        said[name] = str(caught.value)
        if name.startswith(("state", "empty")):
            with pytest.raises(TrainingError) as caught:
                of.read_state(folder / name)
            assert str(caught.value) == said[name]
    of.write_hf(folder / "after")
    of.load(folder / "sound")
    return said


def test_a_damaged_checkpoint_is_refused_on_every_rank_and_nothing_is_loaded(tmp_path: Path) -> None:
    said, other = ranks(2, _damaged, tmp_path)
    assert said == other  # the file that is damaged is read by one of them
    for name, (_, pattern) in DAMAGE.items():
        assert re.search(f"{re.escape(str(tmp_path / name))}: the checkpoint is damaged .*{pattern}", said[name]), name
        assert "\n" not in said[name]
    same(tmp_path / "before", tmp_path / "after")


def _shifted(folder: Path) -> list[str]:
    """A file whose every checksum is right, and whose master weights are not the weights'."""
    of = engine(GQA, layout={"devices": 2}, precision="bf16")
    curve(of, None, range(1))
    of.save(folder / "step", STATE)
    of.finish_save()
    if of.layout.rank == 0:
        path = folder / "step" / "tensors" / "tensor-00-stage-00-replica-0001.safetensors"
        with safe_open(path, framework="pt") as file:
            tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
        name = next(name for name in tensors if name.startswith("master/") and "linear" in name)
        tensors[name] = tensors[name].roll(1)
        save_file(tensors, path, metadata=metadata)
        sealed = json.loads((folder / "step" / "COMPLETE").read_text())
        sealed["files"][f"tensors/{path.name}"] = digest(path)
        (folder / "step" / "COMPLETE").write_text(json.dumps(sealed))
    dist.barrier()
    with pytest.raises(TrainingError) as caught:
        of.load(folder / "step")
    return [str(caught.value)]


def test_master_weights_that_are_not_the_models_are_refused_by_name(tmp_path: Path) -> None:
    said, other = ranks(2, _shifted, tmp_path)
    assert said == other
    assert re.search(r"master weights are not the model's: decoder\S*linear\S+ and 0 more on rank 1", said[0])


def _while_training_goes_on(folder: Path) -> None:
    of = engine(GQA, layout={"devices": 2}, precision="bf16")
    write, release = shard_files.write, threading.Event()

    def slow(*args: Any) -> None:
        release.wait(20)
        write(*args)

    curve(of, None, range(2))
    of.write_hf(folder / "saved")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_files, "write", slow)
        of.save(folder / "first", STATE)
        losses = curve(of, None, range(2, 4))
        assert of.saving and not (folder / "first" / "COMPLETE").exists()
        threading.Timer(0.3, release.set).start()
        of.save(folder / "second", STATE)  # waits for the first
        assert (folder / "first" / "COMPLETE").exists()
    assert of.finish_save() is not None and of.finish_save() is None and not of.saving
    of.load(folder / "first")
    of.write_hf(folder / "loaded")
    assert curve(of, None, range(2, 4)) == losses


def test_a_checkpoint_is_of_the_step_that_asked_for_it(tmp_path: Path) -> None:
    ranks(2, _while_training_goes_on, tmp_path)
    same(tmp_path / "saved", tmp_path / "loaded")


def _other_precision(folder: Path) -> None:
    of = engine(GQA)
    of.save(folder, STATE)
    of.finish_save()
    with pytest.raises(TrainingError, match="was saved in float32, this training is in bfloat16"):
        engine(GQA, precision="bf16").load(folder)


def test_another_precision_is_refused(tmp_path: Path) -> None:
    one(_other_precision, tmp_path / "step")
