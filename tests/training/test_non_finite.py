# SPDX-License-Identifier: Apache-2.0
"""A loss or gradient that is not finite stops the training before its update, or goes back to a checkpoint once."""

import json
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from steerlm.errors import NonFiniteError, TrainingError
from steerlm.training.config import TextSettings
from steerlm.training.data import Row
from steerlm.training.engine import Objective, StepResult
from steerlm.training.layout import FaultSettings
from steerlm.training.sampler import Sampler
from tests.reference_engine import ReferenceEngine
from tests.training.tiny import CONFIG, SETTINGS, TinyTraining


def test_a_loss_that_is_not_finite_stops_before_the_update(tiny: TinyTraining) -> None:
    class Breaks(ReferenceEngine):
        def step(self, rows: Sequence[Row], *args: Any) -> StepResult:
            if self.optimizer.state and next(iter(self.optimizer.state.values()))["step"] == 6:
                self.kept = {name: value.clone() for name, value in self.model.state_dict().items()}
                with torch.no_grad():
                    self.model.model.norm.weight[0] = math.nan
                    self.kept["model.norm.weight"][0] = math.nan
            return super().step(rows, *args)

    settings = TextSettings.model_validate(SETTINGS)
    engine = Breaks(settings.optimizer, config=CONFIG)
    with pytest.raises(TrainingError, match=r"step 7: the gradient norm is nan.*newest checkpoint is step 5"):
        tiny.run(engine=engine, save_every=5)
    after_failure = engine.model.state_dict()
    assert all(torch.equal(v, after_failure[n]) or n == "model.norm.weight" for n, v in engine.kept.items())
    assert tiny.checkpoints() == [5] and list(tiny.lines()) == [1, 2, 3, 4, 5, 6]


class NotFinite(ReferenceEngine):
    """Fails the steps in `at` as not finite, each as often as it is listed."""

    at: tuple[int, ...] = ()

    def step(self, rows: Sequence[Row], objective: Objective, lr: float, count: int | None = None) -> StepResult:
        state = next(iter(self.optimizer.state.values()), None)
        step = int(state["step"]) + 1 if state else 1
        if step in self.at:
            left = list(self.at)
            left.remove(step)
            self.at = tuple(left)
            raise NonFiniteError(math.inf)
        return super().step(rows, objective, lr, count)


def run_with_faults(tiny: TinyTraining, at: tuple[int, ...], **values: Any) -> None:
    engine = NotFinite(TextSettings.model_validate(SETTINGS).optimizer, config=CONFIG)
    engine.at = at
    tiny.run(engine=engine, faults=FaultSettings(non_finite="retry"), **values)


def test_training_recovers_from_a_transient_fault_at_the_last_checkpoint(tiny: TinyTraining) -> None:
    whole = tiny.run("whole", save_every=5)
    run_with_faults(tiny, (8,), save_every=5)
    assert tiny.lines() == pytest.approx(tiny.lines("whole"), abs=1e-6)
    assert tiny.checkpoints() == [10, 12] and whole.steps == 12
    (record,) = [json.loads(line) for line in (tiny.folder / "run" / "non_finite.jsonl").read_text().splitlines()]
    sampler = Sampler(18, TextSettings.model_validate(SETTINGS).seed)
    batches = [sampler.take(4).tolist() for _ in range(8)]
    assert record["step"] == 8 and record["units"] == batches[7]
    assert (record["loss"], record["grad_norm"]) == ("inf", "None")


@pytest.mark.parametrize(
    ("at", "message"),
    [
        (
            (4, 4),
            "step 4: the loss is inf; it happened again after going back to step 2, so .* but the data or the learning",
        ),
        ((3, 5), "step 5: the loss is inf; .* is step 4; training has gone back once already, for step 3"),
        ((2,), "step 2: the loss is inf; there is no checkpoint to go back to"),
    ],
)
def test_training_goes_back_to_a_checkpoint_only_once(tiny: TinyTraining, at: tuple[int, ...], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        run_with_faults(tiny, at, save_every=2)
