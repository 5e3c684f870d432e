# SPDX-License-Identifier: Apache-2.0
"""The loop with the oracle engine: it learns, goes on exactly where it stopped, keeps and exports what it says."""

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig

from steerlm.attributes import AttributeSchema
from steerlm.errors import ConfigError, Interrupted, NonFiniteError, TrainingError
from steerlm.training.config import RewardSettings, SFTSettings, TextSettings, TrainSettings
from steerlm.training.data import Row
from steerlm.training.dataset import TokenDataset
from steerlm.training.engine import Objective, StepResult
from steerlm.training.layout import FaultSettings, LayoutSettings
from steerlm.training.loop import train
from steerlm.training.objectives.reward import RewardObjective
from steerlm.training.objectives.sft import SFTObjective
from steerlm.training.objectives.text import TextObjective
from steerlm.training.sampler import Sampler
from steerlm.training.sink import JsonlSink, Sinks
from steerlm.training.state import TrainResult
from tests.reference_engine import ReferenceEngine
from tests.tiny_models import SHAPE
from tests.training.units import read_unit

CONFIG = LlamaConfig(**SHAPE | {"vocab_size": 257, "max_position_embeddings": 256})
OPTIMIZER = {"lr": 1e-2, "min_lr": 1e-3, "warmup_steps": 2}
SETTINGS = {"max_steps": 12, "global_batch": 4, "window": 64, "optimizer": OPTIMIZER}
WORDS = ("ice", "snow", "rain", "fog", "hail", "wind", "sun")


class World:
    """A folder with tiny data; runs the loop in it as often as asked."""

    def __init__(self, folder: Path, tokenizer: Any) -> None:
        self.folder, self.tokenizer = folder, tokenizer
        texts = [f"{a} and {b} make {c}." for a in WORDS for b in WORDS[:3] for c in WORDS[:1]]
        for name, part in (("train", texts[:18]), ("validation", texts[18:])):
            (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in part))

    def data(self, name: str, objective: Objective) -> TokenDataset:
        return TokenDataset.build([self.folder / f"{name}.jsonl"], objective, self.folder / "cache")

    def run(
        self,
        name: str = "run",
        *,
        stop: Callable[[], bool] = lambda: False,
        engine: ReferenceEngine | None = None,
        layout: LayoutSettings | None = None,
        weights: int = 0,
        faults: FaultSettings | None = None,
        **values: Any,
    ) -> TrainResult:
        settings = TextSettings.model_validate({**SETTINGS, **values})
        objective = TextObjective(settings, self.tokenizer)
        self.engine = engine or ReferenceEngine(settings.optimizer, config=CONFIG, seed=weights)
        data, validation = self.data("train", objective), self.data("validation", objective)
        folder = self.folder / name
        with Sinks([JsonlSink(folder / "metrics.jsonl")]) as sink:
            return train(
                self.engine,
                objective,
                data,
                validation,
                settings,
                layout or LayoutSettings(),
                folder,
                sink,
                stop,
                faults,
            )

    def lines(self, name: str = "run", key: str = "train/loss") -> dict[int, float]:
        """Metric `key` by step; no step may occur twice."""
        lines = [json.loads(line) for line in (self.folder / name / "metrics.jsonl").read_text().splitlines()]
        found = [(line["step"], line[key]) for line in lines if key in line]
        assert len(found) == len(dict(found))
        return dict(found)

    def checkpoints(self, name: str = "run") -> list[int]:
        folder = self.folder / name / "checkpoints"
        return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))


@pytest.fixture
def world(tmp_path: Path, tokenizer: Any) -> World:
    return World(tmp_path, tokenizer)


def after(calls: int) -> Callable[[], bool]:
    """A signal that arrives at the given call."""
    left = iter([False] * calls)
    return lambda: next(left, True)


def test_loss_falls_and_everything_is_logged(world: World) -> None:
    result = world.run(max_steps=30, validate_every=10)
    losses = world.lines()
    assert list(losses) == list(range(1, 31))
    assert losses[30] < 0.6 * losses[1]
    assert list(world.lines(key="validation/loss")) == [10, 20, 30]
    rates = world.lines(key="train/lr")
    assert rates[1] == pytest.approx(1e-2 / 3) and rates[3] == pytest.approx(1e-2)
    assert all(
        value > 0 for key in ("grad_norm", "tokens_per_second") for value in world.lines(key=f"train/{key}").values()
    )
    assert all(value > 0 for value in world.lines(key="train/tflops_per_gpu").values())
    assert set(world.lines(key="train/row_imbalance").values()) == {1.0}  # one replica
    assert result.steps == 30 and result.unused_units == 0 and result.seconds > 0
    assert result.counts["train"]["records"] == 18 and result.counts["validation"]["records"] == 3
    assert result.real_token_share == 1.0
    assert result.metrics["perplexity"] == pytest.approx(math.exp(result.metrics["loss"]), rel=1e-6)


def test_the_loss_is_that_of_the_batch_before_the_update(world: World) -> None:
    """The first logged loss against transformers' own, over the first batch's tokens."""
    world.run(max_steps=1)
    settings = TextSettings.model_validate(SETTINGS)
    fresh = ReferenceEngine(settings.optimizer, config=CONFIG).model
    data = world.data("train", TextObjective(settings, world.tokenizer))
    from steerlm.training.sampler import Sampler

    total, tokens = 0.0, 0
    for unit in Sampler(len(data), settings.seed).take(4).tolist():
        ids = torch.tensor(read_unit(data, unit).samples[0].ids.tolist())[None]
        n = ids.shape[1] - 1
        total, tokens = total + fresh(input_ids=ids, labels=ids).loss.item() * n, tokens + n
    assert world.lines()[1] == pytest.approx(total / tokens, rel=1e-5)


@pytest.mark.parametrize("at", [1, 5, 11])
def test_a_stop_saves_and_the_resume_is_exact(world: World, at: int) -> None:
    whole = world.run("whole")
    with pytest.raises(Interrupted, match=f"stopped after step {at} of 12, saved in .*step-0000{at:02d}"):
        world.run("cut", stop=after(at))
    assert world.checkpoints("cut") == [at]
    resumed = world.run("cut", weights=99)  # other random weights: all must come from the checkpoint
    assert world.lines("cut") == pytest.approx(world.lines("whole"), abs=1e-6)
    assert world.lines("cut", "train/grad_norm") == pytest.approx(world.lines("whole", "train/grad_norm"), abs=1e-6)
    assert resumed.metrics == pytest.approx(whole.metrics, abs=1e-6)
    assert (resumed.tokens, resumed.steps) == (whole.tokens, whole.steps)


def test_a_kill_between_checkpoints_goes_on_from_the_last(world: World) -> None:
    class Killed(ReferenceEngine):
        left = 8

        def step(self, rows: Sequence[Row], *args: Any) -> StepResult:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return super().step(rows, *args)

    world.run("whole")
    settings = TextSettings.model_validate(SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        world.run("cut", engine=Killed(settings.optimizer, config=CONFIG), save_every=5)
    broken = world.folder / "cut" / "checkpoints" / "step-000008"
    broken.mkdir()
    (broken / "weights.safetensors").write_bytes(b"half a save")
    assert list(world.lines("cut")) == list(range(1, 9))
    world.run("cut", weights=99, save_every=5)
    assert world.lines("cut") == pytest.approx(world.lines("whole"), abs=1e-6)
    assert world.checkpoints("cut") == [10, 12]


def test_a_stop_before_the_first_step_saves_nothing(world: World) -> None:
    with pytest.raises(Interrupted, match="before the first step"):
        world.run(stop=after(0))
    assert not (world.folder / "run" / "checkpoints").exists()


def test_a_stop_during_validation_saves_and_validates_again(world: World) -> None:
    whole = world.run("whole", validate_every=6, global_batch=2)
    # 6 updates ask 6 times, validation of 3 units asks twice: the signal comes between its batches
    with pytest.raises(Interrupted, match="after step 6"):
        world.run("cut", stop=after(7), validate_every=6, global_batch=2)
    assert world.lines("cut", "validation/loss") == {}
    resumed = world.run("cut", weights=9, validate_every=6, global_batch=2)
    keys = "validation/loss"
    assert world.lines("cut", keys) == pytest.approx(world.lines("whole", keys), abs=1e-6)
    assert resumed.best_loss == pytest.approx(whole.best_loss, abs=1e-6)


def test_another_packing_gives_the_same_curve(world: World) -> None:
    world.run("tight", layout=LayoutSettings(row_tokens=64))
    world.run("wide", layout=LayoutSettings(micro_batch=8))
    assert world.lines("wide") == pytest.approx(world.lines("tight"), abs=1e-5)


def test_a_finished_run_is_not_trained_again(world: World) -> None:
    first = world.run()
    again = world.run(weights=5)
    assert dataclasses.asdict(again) == dataclasses.asdict(first)
    assert list(world.lines()) == list(range(1, 13))


class Worsening(ReferenceEngine):
    """Validation losses as given, whatever the weights."""

    losses: tuple[float, ...] = (3.0, 1.0, 2.0, 4.0)

    def evaluate(self, rows: Sequence[Row], objective: Objective) -> StepResult:
        true = super().evaluate(rows, objective)
        loss, *rest = self.losses
        self.losses = tuple(rest)
        return dataclasses.replace(true, loss_sum=loss * true.count)


def exported(world: World) -> dict[str, torch.Tensor]:
    world.engine.write_hf(world.folder / "hf")
    return load_file(world.folder / "hf" / "model.safetensors")


def test_the_best_is_kept_and_exported(world: World) -> None:
    settings = TextSettings.model_validate(SETTINGS)
    engine = Worsening(settings.optimizer, config=CONFIG)
    result = world.run(engine=engine, validate_every=3, save_every=1, keep=1)
    assert (result.best_step, result.best_loss, result.exported_step) == (6, 1.0, 6)
    assert result.metrics["loss"] == 1.0 and result.last_metrics["loss"] == 4.0
    assert world.checkpoints() == [6, 12]
    weights = load_file(world.folder / "run" / "checkpoints" / "step-000006" / "weights.safetensors")
    got = exported(world)
    assert got.keys() == weights.keys() and all(torch.equal(got[name], weights[name]) for name in got)
    last = load_file(world.folder / "run" / "checkpoints" / "step-000012" / "weights.safetensors")
    assert not torch.equal(got["lm_head.weight"], last["lm_head.weight"])


def test_the_last_is_exported_if_asked(world: World) -> None:
    settings = TextSettings.model_validate(SETTINGS)
    engine = Worsening(settings.optimizer, config=CONFIG)
    result = world.run(engine=engine, validate_every=3, export="last", keep=1)
    assert (result.best_step, result.exported_step) == (6, 12) and result.metrics["loss"] == 4.0
    assert world.checkpoints() == [12]


def test_only_as_many_as_asked_are_kept(world: World) -> None:
    world.run(save_every=2, keep=3, export="last")
    assert world.checkpoints() == [8, 10, 12]


def test_saves_by_the_clock_beside_the_count(world: World) -> None:
    world.run("steps", save_every=5, keep=9, export="last")
    assert world.checkpoints("steps") == [5, 10, 12]
    world.run("never", save_minutes=60, keep=99, export="last")
    assert world.checkpoints("never") == [12]
    world.run("always", save_minutes=1e-9, keep=99, export="last")
    assert world.checkpoints("always") == list(range(1, 13))
    assert world.lines("always", "checkpoint/blocked_seconds").keys() == set(range(2, 13))  # when complete


class SlowDisk(ReferenceEngine):
    """Is still writing when asked the first two times; COMPLETE comes when the save is finished."""

    asked = 0
    events: tuple[str, ...] = ()

    def save(self, folder: Path, state: Any) -> None:
        super().save(folder, state)
        (folder / "COMPLETE").unlink()
        self.asked, self.events = 0, (*self.events, f"begin {state['step']}")

    @property
    def saving(self) -> bool:  # type: ignore[override]
        self.asked += 1
        return self.saved is not None and self.asked < 3

    def finish_save(self) -> Any:
        if self.saved is not None:
            (self.saved.folder / "COMPLETE").touch()
            self.events += (f"finish {self.saved.folder.name[-2:]}",)
        return super().finish_save()

    def step(self, *args: Any) -> StepResult:
        self.events += ("step",)
        return super().step(*args)


def test_training_goes_on_while_a_checkpoint_is_written(world: World) -> None:
    engine = SlowDisk(TextSettings.model_validate(SETTINGS).optimizer, config=CONFIG)
    world.run(engine=engine, max_steps=7, save_every=3, export="last")
    steps = ("step",) * 3
    saved = ("begin 3", *steps[:2], "finish 03", "step", "begin 6", "step", "finish 06", "begin 7", "finish 07")
    assert engine.events == (*steps, *saved)


def test_the_best_is_complete_before_training_goes_on(world: World) -> None:
    engine = SlowDisk(TextSettings.model_validate(SETTINGS).optimizer, config=CONFIG)
    world.run(engine=engine, max_steps=4, validate_every=2, export="best")
    assert engine.events == ("step", "step", "begin 2", "finish 02", "step", "step", "begin 4", "finish 04")


def test_a_stop_waits_for_its_checkpoint(world: World) -> None:
    engine = SlowDisk(TextSettings.model_validate(SETTINGS).optimizer, config=CONFIG)
    with pytest.raises(Interrupted, match="stopped after step 2 of 12, saved in"):
        world.run(engine=engine, stop=after(2))
    assert engine.events[-2:] == ("begin 2", "finish 02") and world.checkpoints() == [2]


def test_validation_batches_limit_what_is_read(world: World) -> None:
    whole = world.run("whole", global_batch=2)
    part = world.run("part", global_batch=2, validation_batches=1)
    assert part.metrics["learned_tokens"] < whole.metrics["learned_tokens"]


def test_a_loss_that_is_not_finite_stops_before_the_update(world: World) -> None:
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
    with pytest.raises(TrainingError, match=r"step 7: the gradient norm is nan.*newest checkpoint is of step 5"):
        world.run(engine=engine, save_every=5)
    after_failure = engine.model.state_dict()
    assert all(torch.equal(v, after_failure[n]) or n == "model.norm.weight" for n, v in engine.kept.items())
    assert world.checkpoints() == [5] and list(world.lines()) == [1, 2, 3, 4, 5, 6]


class NotFinite(ReferenceEngine):
    """The steps in `at` are not finite, each as often as it stands there."""

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


def not_finite(world: World, at: tuple[int, ...], **values: Any) -> None:
    engine = NotFinite(TextSettings.model_validate(SETTINGS).optimizer, config=CONFIG)
    engine.at = at
    world.run(engine=engine, faults=FaultSettings(non_finite="retry"), **values)


def test_after_a_fault_that_passes_training_goes_on_from_the_last_checkpoint(world: World) -> None:
    whole = world.run("whole", save_every=5)
    not_finite(world, (8,), save_every=5)
    assert world.lines() == pytest.approx(world.lines("whole"), abs=1e-6)
    assert world.checkpoints() == [10, 12] and whole.steps == 12
    (record,) = [json.loads(line) for line in (world.folder / "run" / "non_finite.jsonl").read_text().splitlines()]
    sampler = Sampler(18, TextSettings.model_validate(SETTINGS).seed)
    batches = [sampler.take(4).tolist() for _ in range(8)]
    assert record["step"] == 8 and record["units"] == batches[7]
    assert (record["loss"], record["grad_norm"]) == ("inf", "None")


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ((4, 4), "step 4: the loss is inf; the same after going back to step 2, so .* the data or the learning rate"),
        ((3, 5), "step 5: the loss is inf; .* of step 4; training has gone back once already, for step 3"),
        ((2,), "step 2: the loss is inf; there is no checkpoint to go back to"),
    ],
)
def test_going_back_once_is_all(world: World, at: tuple[int, ...], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        not_finite(world, at, save_every=2)


def test_a_checkpoint_of_another_run_is_refused(world: World) -> None:
    with pytest.raises(Interrupted):
        world.run(stop=after(3))
    for tensors in (world.folder / "run" / "checkpoints" / "step-000003").glob("*.safetensors"):
        tensors.unlink()  # they are not read
    with pytest.raises(TrainingError, match=r"step-000003: was made with another global_batch \(4, now 2\)"):
        world.run(global_batch=2)
    with pytest.raises(TrainingError, match=r"another seed \(1234, now 5\)"):
        world.run(seed=5)


def test_settings_that_cannot_work_are_refused_before_the_first_step(world: World) -> None:
    with pytest.raises(ConfigError, match="the layout's rows hold 8"):
        world.run(layout=LayoutSettings(row_tokens=8))
    with pytest.raises(ConfigError, match="leave no step of 12"):
        world.run(optimizer={**OPTIMIZER, "constant_steps": 50})
    with pytest.raises(ConfigError, match="hold no global batch"):
        world.run(max_steps=None, epochs=0.1)


def test_epochs_count_what_is_left_over(world: World) -> None:
    result = world.run(max_steps=None, epochs=2.5)
    assert (result.steps, result.unused_units) == (11, 1)  # 45 units in batches of 4


def run_objective(world: World, objective: Any, settings: TrainSettings, outputs: int | None) -> TrainResult:
    """Trains and validates on the same lines."""
    engine = ReferenceEngine(settings.optimizer, config=CONFIG, outputs=outputs)
    data = TokenDataset.build([world.folder / "lines.jsonl"], objective, world.folder / "cache")
    with Sinks([JsonlSink(world.folder / "run" / "metrics.jsonl")]) as sink:
        return train(
            engine, objective, data, data, settings, LayoutSettings(), world.folder / "run", sink, lambda: False
        )


def test_a_reward_model_learns_to_rate(world: World) -> None:
    schema = AttributeSchema(names=("wet", "never", "cold"), high=1)
    lines = [
        {"text": f"{a} {b}<extra_id_2>", "label": [float(a == "rain"), -100.0, float(b == "ice")]}
        for a in WORDS[:4]
        for b in WORDS[:4]
    ]
    (world.folder / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = RewardSettings.model_validate({**SETTINGS, "max_steps": 40, "global_batch": 8})
    result = run_objective(world, RewardObjective(settings, world.tokenizer, schema), settings, 3)
    for name in ("wet", "cold"):
        assert result.metrics[f"mse/{name}"] < 0.8 * result.metrics[f"mean_predictor_mse/{name}"]
        assert result.metrics[f"pearson/{name}"] > 0.5
    assert not [name for name in result.metrics if "never" in name]
    assert result.counts["train"]["labels/wet"] == 16 and "labels/never" not in result.counts["train"]


def test_conditioned_fine_tuning_learns_its_answers(world: World) -> None:
    lines = [
        {
            "conversations": [
                {"value": word, "from": "User", "label": None},
                {"value": f"It is {word}.", "from": "Assistant", "label": f"quality:{at % 5}"},
            ],
            "system": "",
            "mask": "User",
            "type": "VALUE_TO_TEXT",
        }
        for at, word in enumerate(WORDS)
    ]
    (world.folder / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = SFTSettings.model_validate({**SETTINGS, "window": 128})
    result = run_objective(world, SFTObjective(settings, world.tokenizer, AttributeSchema()), settings, None)
    losses = world.lines()
    assert losses[12] < 0.7 * losses[1]
    assert result.metrics["learned_tokens"] == sum(len(f"It is {w}.\n<extra_id_1>") for w in WORDS)
