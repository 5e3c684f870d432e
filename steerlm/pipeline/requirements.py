# SPDX-License-Identifier: Apache-2.0
"""What a recipe asks of itself and of its data, checked before the first training instead of after the last one.

`check_recipe` needs the recipe alone; `check_data` also the counts that `prepare_data` made. Counts are upper bounds:
a training may still drop samples, which it says itself. Layouts, models and windows: `trainjob/preflight.py`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from steerlm.errors import ConfigError
from steerlm.recipe import Recipe
from steerlm.stages.prepare_data import HELD_OUT_LABELS
from steerlm.training.config import TrainSettings
from steerlm.training.schedule import check_steps, learning_rate
from steerlm.trainjob.preflight import in_section


@dataclass(frozen=True, slots=True)
class _Training:
    """A training and the files of `prepare_data` that it reads, each `repeat` times in an epoch."""

    section: str
    settings: TrainSettings
    train: str
    validation: str
    repeat: int = 1


def check_recipe(recipe: Recipe) -> None:
    """Check what the recipe alone decides. Raises `ConfigError` that names the section."""
    if recipe.evaluate and recipe.sft and not (recipe.reward or recipe.prepare_data.toyworld):
        raise ConfigError("evaluate: nothing can judge the policy's answers: give the section reward, or leave it out")
    for training in _trainings(recipe):
        steps = training.settings.max_steps
        if steps is not None:
            with in_section(training.section):
                learning_rate(training.settings.optimizer, 0, steps)


def check_data(recipe: Recipe, counts: Mapping[str, Any]) -> None:
    """Check a recipe against the metrics of its data; a count that is not there is not checked.

    Raises:
        ConfigError: Names the section, what it asks for, what there is, and the remedy.
    """
    for training in _trainings(recipe):
        with in_section(training.section):
            _check_training(training, counts)
    if recipe.evaluate:
        with in_section("evaluate"):
            _check_evaluation(recipe, recipe.evaluate.questions, counts)


def _trainings(recipe: Recipe) -> Iterator[_Training]:
    if recipe.base and recipe.base.train:
        yield _Training("base.train", recipe.base.train, "plain_train", "plain_val")
    if recipe.reward:
        yield _Training("reward", recipe.reward, "regression_train", "regression_val")
    for name, section in (("sft", recipe.sft), ("baseline", recipe.baseline)):
        if section:
            yield _Training(name, section, "train", "val", section.repeat)


def _check_training(training: _Training, counts: Mapping[str, Any]) -> None:
    settings, units = training.settings, counts.get(f"lines/{training.train}")
    if units is not None:
        if units == 0:
            what = "labeled answer" if training.train == "regression_train" else "conversation"
            raise ConfigError(f"the data have no {what} to train on; give prepare_data more or other sources")
        check_steps(settings, units * training.repeat)
    if settings.validate_every is not None and counts.get(f"lines/{training.validation}") == 0:
        what = "labeled answer" if training.validation == "regression_val" else "conversation"
        raise ConfigError(
            f"validate_every is {settings.validate_every}, and the data have no {what} to validate on; "
            "hold some out (docs/own-data.md), or set validate_every: null"
        )


def _check_evaluation(recipe: Recipe, asked: int, counts: Mapping[str, Any]) -> None:
    questions, labels = counts.get("lines/questions"), counts.get(HELD_OUT_LABELS)
    if recipe.sft and questions is not None and questions < asked:
        source = recipe.prepare_data.questions or "the distinct first turns of the validation conversations"
        fewer = f"set questions to {questions} at most, " if questions else ""
        raise ConfigError(
            f"questions is {asked}, and there are {questions} questions ({source}); "
            f"{fewer}hold out more conversations, or name a file of questions: prepare_data.questions"
        )
    if recipe.reward and labels == 0 and not recipe.prepare_data.toyworld:
        raise ConfigError(
            "no held-out answer has a label to judge the reward model by; "
            "hold out labeled conversations (docs/own-data.md), or leave the section evaluate out"
        )
