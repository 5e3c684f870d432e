# SPDX-License-Identifier: Apache-2.0
"""Messages about wrong values are in our words, whatever the key and the value."""

import itertools

import pytest

from steerlm.configuration import key_paths
from steerlm.errors import ConfigError
from steerlm.recipe import PROFILE_PREFIX, Profile, Recipe, load_recipe

VALUES = ("x", "[]", "[1, 2, 3]", "{}", "{kind: x}", "null", "-1", "0", "1.5", ".nan", ".inf", "true", "1970-01-01")
PYDANTIC = ("Input should", "Field required", "should have", "valid tuple", "Value error", "Extra inputs", "dictionary")
KEYS = [key for key in key_paths(Recipe) if key.count("*") < 2 and key != "profile"]
KEYS += [f"{PROFILE_PREFIX}{key}" for key in key_paths(Profile)]


def messages(key: str) -> list[str]:
    refused = []
    for value in VALUES:
        override = f"{key.replace('*', '0')}={value}"
        try:
            load_recipe("demo", None, [override])
        except ConfigError as error:
            refused.append(str(error))
            assert refused[-1].startswith("--set "), refused[-1]
    return refused


def test_no_key_and_no_value_is_refused_in_the_words_of_a_library() -> None:
    refused = list(itertools.chain.from_iterable(map(messages, KEYS)))
    assert len(refused) > 5 * len(KEYS)
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
