# SPDX-License-Identifier: Apache-2.0
"""When checkpoints are written, which are kept, and which one is exported."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from steerlm.errors import Interrupted
from steerlm.training.config import TextSettings
from steerlm.training.data import Row
from steerlm.training.engine import Objective, StepResult
from tests.reference_engine import ReferenceEngine
from tests.training.tiny import CONFIG, SETTINGS, TinyTraining, stop_after


class ScriptedLosses(ReferenceEngine):
    """Returns the scripted validation losses, whatever the weights."""

    losses: tuple[float, ...] = (3.0, 1.0, 2.0, 4.0)

    def evaluate(self, rows: Sequence[Row], objective: Objective) -> StepResult:
        true = super().evaluate(rows, objective)
        loss, *rest = self.losses
        self.losses = tuple(rest)
        return dataclasses.replace(true, loss_sum=loss * true.count)


def exported_weights(tiny: TinyTraining) -> dict[str, torch.Tensor]:
    tiny.engine.write_hf(tiny.folder / "hf")
    weights: dict[str, torch.Tensor] = load_file(tiny.folder / "hf" / "model.safetensors")
    return weights


def test_the_best_checkpoint_is_kept_and_exported(tiny: TinyTraining) -> None:
    settings = TextSettings.model_validate(SETTINGS)
    engine = ScriptedLosses(settings.optimizer, config=CONFIG)
    result = tiny.run(engine=engine, validate_every=3, save_every=1, keep=1)
    assert (result.best_step, result.best_loss, result.exported_step) == (6, 1.0, 6)
    assert result.metrics["loss"] == 1.0 and result.last_metrics["loss"] == 4.0
    assert tiny.checkpoints() == [6, 12]
    weights = load_file(tiny.folder / "run" / "checkpoints" / "step-000006" / "weights.safetensors")
    exported = exported_weights(tiny)
    assert exported.keys() == weights.keys() and all(torch.equal(exported[name], weights[name]) for name in weights)
    last = load_file(tiny.folder / "run" / "checkpoints" / "step-000012" / "weights.safetensors")
    assert not torch.equal(exported["lm_head.weight"], last["lm_head.weight"])


def test_export_last_exports_the_last_step(tiny: TinyTraining) -> None:
    settings = TextSettings.model_validate(SETTINGS)
    engine = ScriptedLosses(settings.optimizer, config=CONFIG)
    result = tiny.run(engine=engine, validate_every=3, export="last", keep=1)
    assert (result.best_step, result.exported_step) == (6, 12) and result.metrics["loss"] == 4.0
    assert tiny.checkpoints() == [12]


def test_keep_limits_the_checkpoints(tiny: TinyTraining) -> None:
    tiny.run(save_every=2, keep=3, export="last")
    assert tiny.checkpoints() == [8, 10, 12]


def test_checkpoints_are_saved_by_steps_and_by_minutes(tiny: TinyTraining) -> None:
    tiny.run("steps", save_every=5, keep=9, export="last")
    assert tiny.checkpoints("steps") == [5, 10, 12]
    tiny.run("never", save_minutes=60, keep=99, export="last")
    assert tiny.checkpoints("never") == [12]
    tiny.run("always", save_minutes=1e-9, keep=99, export="last")
    assert tiny.checkpoints("always") == list(range(1, 13))
    assert tiny.lines("always", "checkpoint/blocked_seconds").keys() == set(range(2, 13))  # when complete


class SlowDisk(ReferenceEngine):
    """Still writes a checkpoint the first two times it is polled; `finish_save` marks it complete."""

    polls = 0
    events: tuple[str, ...] = ()

    def save(self, folder: Path, state: Any) -> None:
        super().save(folder, state)
        (folder / "COMPLETE").unlink()
        self.polls, self.events = 0, (*self.events, f"begin {state['step']}")

    @property
    def saving(self) -> bool:  # type: ignore[override]
        self.polls += 1
        return self.saved is not None and self.polls < 3

    def finish_save(self) -> Any:
        if self.saved is not None:
            (self.saved.folder / "COMPLETE").touch()
            self.events += (f"finish {self.saved.folder.name[-2:]}",)
        return super().finish_save()

    def step(self, *args: Any) -> StepResult:
        self.events += ("step",)
        return super().step(*args)


def test_training_continues_while_a_checkpoint_is_written(tiny: TinyTraining) -> None:
    engine = SlowDisk(TextSettings.model_validate(SETTINGS).optimizer, config=CONFIG)
    tiny.run(engine=engine, max_steps=7, save_every=3, export="last")
    steps = ("step",) * 3
    saved = ("begin 3", *steps[:2], "finish 03", "step", "begin 6", "step", "finish 06", "begin 7", "finish 07")
    assert engine.events == (*steps, *saved)


def test_the_best_checkpoint_is_complete_before_training_continues(tiny: TinyTraining) -> None:
    engine = SlowDisk(TextSettings.model_validate(SETTINGS).optimizer, config=CONFIG)
    tiny.run(engine=engine, max_steps=4, validate_every=2, export="best")
    assert engine.events == ("step", "step", "begin 2", "finish 02", "step", "step", "begin 4", "finish 04")


def test_a_stop_waits_for_its_checkpoint(tiny: TinyTraining) -> None:
    engine = SlowDisk(TextSettings.model_validate(SETTINGS).optimizer, config=CONFIG)
    with pytest.raises(Interrupted, match="stopped after step 2 of 12, saved in"):
        tiny.run(engine=engine, stop=stop_after(2))
    assert engine.events[-2:] == ("begin 2", "finish 02") and tiny.checkpoints() == [2]
