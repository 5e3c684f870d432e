# SPDX-License-Identifier: Apache-2.0
"""What the data or the recipe decides is said before the first training."""

from typing import Any

import pytest

from steerlm.errors import ConfigError
from steerlm.pipeline.requirements import check_data, check_recipe
from steerlm.recipe import Recipe, load_recipe, shipped

COUNTS = {
    "lines/train": 100,
    "lines/val": 10,
    "lines/regression_train": 64,
    "lines/regression_val": 8,
    "lines/questions": 40,
    "held_out_labels": 8,
}


def recipe(*overrides: str) -> Recipe:
    return load_recipe("demo-real", None, overrides).recipe


def test_what_fits_is_accepted() -> None:
    check_recipe(recipe())
    check_data(recipe(), COUNTS)
    check_data(recipe(), {})  # an artifact of an earlier version has other counts


@pytest.mark.parametrize("name", shipped("recipes"))
def test_the_shipped_recipes_fit_themselves(name: str) -> None:
    check_recipe(load_recipe(name).recipe)


@pytest.mark.parametrize(
    ("overrides", "changed", "message"),
    [
        (
            (),
            {"lines/questions": 31},
            r"^evaluate: questions is 32, and there are 31 questions \(the distinct first turns .*"
            r"set questions to 31 at most",
        ),
        ((), {"lines/questions": 0}, r"^evaluate: questions is 32, and there are 0 questions .*; hold out more"),
        (("prepare_data.questions=q.jsonl",), {"lines/questions": 3}, r"there are 3 questions \(q\.jsonl\)"),
        ((), {"held_out_labels": 0}, r"^evaluate: no held-out answer has a label to judge the reward model by"),
        ((), {"lines/regression_train": 0}, r"^reward: the data have no labeled answer to train on"),
        ((), {"lines/regression_train": 15}, r"^reward: 2 epochs of 15 units hold no global batch of 32"),
        ((), {"lines/regression_val": 0}, r"^reward: validate_every is 30, and the data have no labeled answer to val"),
        ((), {"lines/train": 31}, r"^sft: 1 epochs of 31 units hold no global batch of 32"),
        (("sft.optimizer.constant_steps=3",), {}, r"^sft: warmup_steps 5 \+ constant_steps 3 leave no step of 3 for"),
    ],
)
def test_data_that_do_not_fit(overrides: tuple[str, ...], changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_data(recipe(*overrides), COUNTS | changed)


def test_limits() -> None:
    check_data(recipe(), COUNTS | {"lines/questions": 32, "lines/regression_train": 16, "lines/train": 32})
    check_data(recipe("sft.repeat=2"), COUNTS | {"lines/train": 16})
    check_data(recipe("reward.validate_every=null"), COUNTS | {"lines/regression_val": 0})
    check_data(recipe("sft=null"), COUNTS | {"lines/questions": 0})  # no policy is asked


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("reward=null", "annotate=null"), "evaluate: nothing can judge the policy's answers: give the section reward"),
        (
            ("sft.max_steps=100", "sft.optimizer.constant_steps=100"),
            "sft: warmup_steps 5 + constant_steps 100 leave no step of 100 for the schedule's decay",
        ),
    ],
)
def test_recipes_that_do_not_fit_themselves(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_recipe(recipe(*overrides))
    assert str(caught.value).startswith(message)
