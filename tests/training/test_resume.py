# SPDX-License-Identifier: Apache-2.0
"""A training that was stopped or killed resumes exactly where it was."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest

from steerlm.errors import Interrupted, TrainingError
from steerlm.training.config import TextSettings
from steerlm.training.data import Row
from steerlm.training.engine import StepResult
from tests.reference_engine import ReferenceEngine
from tests.training.tiny import CONFIG, SETTINGS, TinyTraining, stop_after


@pytest.mark.parametrize("at", [1, 5, 11])
def test_a_stop_saves_and_the_resume_is_exact(tiny: TinyTraining, at: int) -> None:
    whole = tiny.run("whole")
    with pytest.raises(Interrupted, match=f"stopped after step {at} of 12, saved in .*step-0000{at:02d}"):
        tiny.run("cut", stop=stop_after(at))
    assert tiny.checkpoints("cut") == [at]
    resumed = tiny.run("cut", weights=99)  # other random weights: all must come from the checkpoint
    assert tiny.lines("cut") == pytest.approx(tiny.lines("whole"), abs=1e-6)
    assert tiny.lines("cut", "train/grad_norm") == pytest.approx(tiny.lines("whole", "train/grad_norm"), abs=1e-6)
    assert resumed.metrics == pytest.approx(whole.metrics, abs=1e-6)
    assert (resumed.tokens, resumed.steps) == (whole.tokens, whole.steps)


def test_a_killed_run_resumes_from_its_last_checkpoint(tiny: TinyTraining) -> None:
    class Killed(ReferenceEngine):
        left = 8

        def step(self, rows: Sequence[Row], *args: Any) -> StepResult:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return super().step(rows, *args)

    tiny.run("whole")
    settings = TextSettings.model_validate(SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        tiny.run("cut", engine=Killed(settings.optimizer, config=CONFIG), save_every=5)
    broken = tiny.folder / "cut" / "checkpoints" / "step-000008"
    broken.mkdir()
    (broken / "weights.safetensors").write_bytes(b"half a save")
    assert list(tiny.lines("cut")) == list(range(1, 9))
    tiny.run("cut", weights=99, save_every=5)
    assert tiny.lines("cut") == pytest.approx(tiny.lines("whole"), abs=1e-6)
    assert tiny.checkpoints("cut") == [10, 12]


def test_a_stop_before_the_first_step_saves_nothing(tiny: TinyTraining) -> None:
    with pytest.raises(Interrupted, match="before the first step"):
        tiny.run(stop=stop_after(0))
    assert not (tiny.folder / "run" / "checkpoints").exists()


def test_a_stop_during_validation_saves_and_validates_again(tiny: TinyTraining) -> None:
    whole = tiny.run("whole", validate_every=6, global_batch=2)
    # 6 updates poll `stop` 6 times, validation of 3 units twice: the signal arrives between its batches
    with pytest.raises(Interrupted, match="after step 6"):
        tiny.run("cut", stop=stop_after(7), validate_every=6, global_batch=2)
    assert tiny.lines("cut", "validation/loss") == {}
    resumed = tiny.run("cut", weights=9, validate_every=6, global_batch=2)
    keys = "validation/loss"
    assert tiny.lines("cut", keys) == pytest.approx(tiny.lines("whole", keys), abs=1e-6)
    assert resumed.best_loss == pytest.approx(whole.best_loss, abs=1e-6)


def test_a_finished_run_is_not_trained_again(tiny: TinyTraining) -> None:
    first = tiny.run()
    again = tiny.run(weights=5)
    assert dataclasses.asdict(again) == dataclasses.asdict(first)
    assert list(tiny.lines()) == list(range(1, 13))


def test_a_checkpoint_of_another_run_is_refused(tiny: TinyTraining) -> None:
    with pytest.raises(Interrupted):
        tiny.run(stop=stop_after(3))
    for tensors in (tiny.folder / "run" / "checkpoints" / "step-000003").glob("*.safetensors"):
        tensors.unlink()  # they are not read
    with pytest.raises(TrainingError, match=r"step-000003: was made with another global_batch \(4, now 2\)"):
        tiny.run(global_batch=2)
    with pytest.raises(TrainingError, match=r"another seed \(1234, now 5\)"):
        tiny.run(seed=5)
