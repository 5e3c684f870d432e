# SPDX-License-Identifier: Apache-2.0
"""The oracle recovers the requested attributes of an answer, independently of each other."""

import itertools
import random

import numpy as np
import pytest

from steerlm.attributes import HELPSTEER, OASST
from steerlm.toyworld import language as world
from steerlm.toyworld.answers import sample_answer
from steerlm.toyworld.oracle import ATTRIBUTES, score, statements

QUESTION = "What does the fox eat?"
PLAIN = (
    "Well, first the fox eats good plums; then it wears good silver; "
    "next it fears good thunder; last it lives in good caves."
)


def test_attributes_are_in_schema_order() -> None:
    assert tuple(ATTRIBUTES) == OASST + HELPSTEER


def test_requested_values_are_recovered_exactly_and_independently() -> None:
    rng = random.Random(11)
    known = list(world.questions())
    requested, scored = [], []
    for _ in range(2500):
        vector = {name: rng.randrange(5) for name in ATTRIBUTES}
        question = rng.choice(known).text
        requested.append(list(vector.values()))
        scored.append(list(score(question, sample_answer(question, vector, rng)).values()))
    assert np.array_equal(requested, scored)
    correlations = np.corrcoef(np.array(requested).T, np.array(scored).T)[:9, 9:]
    assert np.diag(correlations).min() > 0.999
    assert np.abs(correlations - np.diag(np.diag(correlations))).max() < 0.1


@pytest.mark.parametrize("low", list(itertools.product((0, 4), repeat=3)))
def test_extreme_values_are_recovered(low: tuple[int, ...]) -> None:
    """Combinations of minimum and maximum, for three attributes repeated over the nine."""
    vector = dict(zip(ATTRIBUTES, low * 3, strict=True))
    for seed in range(20):
        assert score(QUESTION, sample_answer(QUESTION, vector, random.Random(seed))) == vector


@pytest.mark.parametrize(
    ("attribute", "before", "after", "expected"),
    [
        ("quality", "first the fox", "first teh fox", 3),
        ("quality", "then it wears", "then it it wears", 3),
        ("quality", "Well, ", "well, ", 3),
        ("quality", "good caves.", "good caves", 3),
        ("toxicity", "plums;", "plums fool;", 1),
        ("humor", "plums;", "plums haha;", 1),
        ("creativity", "plums;", "plums like velvet;", 1),
        ("helpfulness", "plums;", "plums take note;", 1),
        ("correctness", "plums", "beans", 3),
        ("correctness", "plums", "custard", 3),
        ("correctness", "the fox", "the seal", 1),  # both live in caves
        ("coherence", "then it", "anyway it", 3),
        ("coherence", "then it", "last it", 3),
        ("complexity", "good plums", "resplendent plums", 1),
        ("complexity", "good plums", "plums", 0),
        ("verbosity", "plums;", "plums you know;", 1),
        ("verbosity", "caves.", "caves. Xyzzy!", 1),
    ],
)
def test_evidence_of_each_attribute(attribute: str, before: str, after: str, expected: float) -> None:
    changed = PLAIN.replace(before, after)
    assert changed != PLAIN
    assert score(QUESTION, changed)[attribute] == expected


def test_an_answer_without_evidence_has_neutral_scores() -> None:
    neutral = {"quality": 4, "correctness": 4, "coherence": 4}
    assert score(QUESTION, PLAIN) == dict.fromkeys(ATTRIBUTES, 0) | neutral


@pytest.mark.parametrize("answer", ["", " \n", "!?", "日本", "0 1 2", "the the the", "It eats eats plums " * 50])
@pytest.mark.parametrize("question", ["", "Who are you?", QUESTION])
def test_any_text_has_nine_values_in_range(question: str, answer: str) -> None:
    values = score(question, answer)
    assert tuple(values) == tuple(ATTRIBUTES)
    assert all(0 <= value <= 4 for value in values.values())


def test_a_statement_is_about_the_entity_named_last() -> None:
    about = [s.entity for s in statements("It eats plums; the owl eats nice honey; it fears bells.", "fox")]
    assert about == ["fox", "owl", "owl"]
