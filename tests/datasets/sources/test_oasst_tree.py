# SPDX-License-Identifier: Apache-2.0
"""Rounding half to even, partial and absent ratings, the order of paths."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerlm.attributes import OASST, AttributeSchema, parse_labels
from steerlm.datasets.sources.oasst_tree import Message, conversations, label_string, turn

SCHEMA = AttributeSchema()
ROUNDED = {0: 0, 0.1: 0, 0.125: 0, 0.25: 1, 0.375: 2, 0.5: 2, 0.625: 2, 0.75: 3, 0.875: 4, 1: 4, 1 / 3: 1, 0.999: 4}


@pytest.mark.parametrize(("rating", "level"), ROUNDED.items())
def test_ratings_round_half_to_even(rating: float, level: int) -> None:
    nested = {"quality": {"value": rating, "count": 2}}
    flat = {"name": ["spam", "quality"], "value": [0.0, rating], "count": [1, 1]}
    assert label_string(nested, OASST, SCHEMA) == label_string(flat, OASST, SCHEMA) == f"quality:{level}"


@pytest.mark.parametrize(
    ("labels", "label"),
    [
        ({"creativity": {"value": 1.0}, "toxicity": {"value": 0.0}}, "toxicity:0,creativity:4"),
        ({"helpfulness": {"value": 1.0}, "violence": {"value": 1.0}}, ""),
        ({}, ""),
        ({"name": [], "value": []}, ""),
        ({"name": ["humor", "quality"], "value": [0.5, 0.25]}, "quality:1,humor:2"),
    ],
)
def test_the_labels_that_are_present_in_order(labels: dict[str, Any], label: str) -> None:
    assert label_string(labels, OASST, SCHEMA) == label
    assert turn(Message(text="a", role="assistant", labels=labels), OASST, SCHEMA).label == label


def test_unrated_answers_have_no_label_key_and_users_a_null_one() -> None:
    rated = {"quality": {"value": 1.0}}
    user = turn(Message(text="a", role="prompter", labels=rated), OASST, SCHEMA)
    unrated = turn(Message(text="a", role="assistant"), OASST, SCHEMA)
    null = turn(Message(text="a", role="assistant", labels=None), OASST, SCHEMA)
    assert user.to_json() == '{"value": "a", "from": "User", "label": null}'
    assert unrated.to_json() == null.to_json() == '{"value": "a", "from": "Assistant"}'


def test_paths_are_depth_first_in_file_order_and_may_end_on_a_user() -> None:
    def node(text: str, *replies: Message) -> Message:
        role = "assistant" if len(text) % 2 == 0 else "prompter"
        return Message(text=text, role=role, replies=list(replies))

    root = node("a", node("ab", node("abc"), node("abd")), node("ac"), node("ad", node("ade", node("adef"))))
    paths = [[t.value for t in talk.conversations] for talk in conversations(root, OASST, SCHEMA)]
    assert paths == [["a", "ab", "abc"], ["a", "ab", "abd"], ["a", "ac"], ["a", "ad", "ade", "adef"]]
    assert list(conversations(node("a"), OASST, SCHEMA)) == []


@given(st.dictionaries(st.sampled_from([*OASST, "spam"]), st.floats(0, 1)), st.integers(-3, 3), st.integers(1, 9))
def test_every_rating_lands_in_the_range(ratings: dict[str, float], low: int, width: int) -> None:
    schema = AttributeSchema(low=low, high=low + width)
    text = label_string({name: {"value": value} for name, value in ratings.items()}, OASST, schema)
    levels = parse_labels(text) if text else {}
    assert list(levels) == [name for name in OASST if name in ratings]
    for name, level in levels.items():
        assert abs(level - (low + ratings[name] * width)) <= 0.5
    schema.check(levels)
