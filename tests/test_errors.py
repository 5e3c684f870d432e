# SPDX-License-Identifier: Apache-2.0
"""Messages about wrong values are in our words, whatever the key and the value."""

import datetime
import itertools
import math
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from steerlm.configuration import key_paths
from steerlm.errors import ConfigError, problem
from steerlm.recipe import Profile, Recipe, load_recipe

VALUES: tuple[Any, ...] = (
    "x",
    [],
    [1, 2, 3],
    {},
    {"kind": "x"},
    None,
    -1,
    0,
    1.5,
    math.nan,
    math.inf,
    True,
    datetime.date(1970, 1, 1),
)
PYDANTIC = ("Input should", "Field required", "should have", "valid tuple", "Value error", "Extra inputs", "dictionary")


def changed(data: Any, key: str, value: Any) -> Any:
    """Return nested data with another value at a dotted key, creating what is missing."""
    if not key:
        return value
    part, _, rest = key.partition(".")
    if part == "*" and isinstance(data, list):
        return [changed(data[0] if data else None, rest, value), *data[1:]]
    part = "0" if part == "*" else part
    inside = data if isinstance(data, dict) else {}
    return {**inside, part: changed(inside.get(part), rest, value)}


@pytest.mark.parametrize("model", [Recipe, Profile])
def test_no_key_and_no_value_is_refused_in_the_words_of_a_library(model: type[BaseModel]) -> None:
    loaded = load_recipe("demo")
    data = (loaded.recipe if model is Recipe else loaded.profile).model_dump(mode="json")
    keys = [key for key in key_paths(model) if key.count("*") < 2]
    refused = []
    for key, value in itertools.product(keys, VALUES):
        try:
            model.model_validate(changed(data, key, value))
        except ValidationError as error:
            refused += [problem(one) for one in error.errors()]
    assert len(refused) > 5 * len(keys)
    assert [text for text in refused if any(words in text for words in PYDANTIC)] == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("prepare_data.sources=[]", "prepare_data.sources: a list of 1 or more items was expected, not []"),
        ("prepare_data.sources=[{}]", "prepare_data.sources.0: its key 'kind' is missing"),
        ("prepare_data.sources.0.kind=oast", "a 'kind' of 'oasst', 'helpsteer', "),
        ("reward.optimizer.betas=[1]", "reward.optimizer.betas.1: is missing"),
        ("reward.precision=fp16", "reward.precision: 'bf16' or 'fp32' was expected, not \"fp16\""),
        ("reward=5", "reward: an object with keys was expected, not 5"),
        ("reward.epochs=.inf", "reward.epochs: a finite number was expected, not Infinity"),
        ("reward.optimizer.lr=1e-9", "reward.optimizer: lr 1e-09 is below min_lr 5e-05"),
        ("sft=null", "--set sft=null: baseline needs the section sft to compare with"),
    ],
)
def test_what_was_expected_and_what_was_given(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe("demo", None, [override])
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"--set {override}: ")
