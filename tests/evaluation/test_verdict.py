# SPDX-License-Identifier: Apache-2.0
"""Numbers of an evaluation become verdicts, and advice that fits them."""

from typing import Any

import pytest

from steerlm.evaluation.verdict import advice, conclusion, noise_level, verdicts


def steering(questions: int = 256, **rho: float) -> dict[str, Any]:
    judged = {name: {"spearman": value} for name, value in rho.items()}
    return {"attributes": list(rho), "questions": questions, "judges": {"oracle": judged}, "baseline": None}


def quality(**pearson: float | None) -> dict[str, Any]:
    return {name: {"pearson": value} for name, value in pearson.items()}


@pytest.mark.parametrize(
    ("rho", "text"),
    [
        (0.98, "steerable"),
        (0.6, "steerable"),
        (0.59, "weakly steerable"),
        (0.3, "weakly steerable"),
        (0.2, "not steerable yet"),
        (-0.9, "not steerable yet"),
        (float("nan"), "not steerable yet"),  # all answers are alike
    ],
)
def test_the_correlation_decides(rho: float, text: str) -> None:
    (row,) = verdicts(steering(humor=rho))
    assert row.text == text


def test_what_chance_may_make_is_no_success() -> None:
    assert noise_level(5) == 1.0
    (row,) = verdicts(steering(questions=8, humor=0.7))
    assert row.text == "not steerable yet"
    assert conclusion([row]) == "not steerable yet: the policy follows no attribute"
    assert advice([row], questions=8)[-1].startswith("With 8 questions a correlation below 0.76 may be chance")
    assert not any("chance" in text for text in advice([row], questions=256))


def test_the_reward_model_is_blamed_for_what_it_does_not_know_and_the_policy_for_the_rest() -> None:
    rows = verdicts(steering(humor=0.2, quality=0.2, verbosity=0.9), quality(humor=0.1, quality=0.8, verbosity=0.9))
    assert conclusion(rows) == "partly steerable: the policy follows 1 of 3 attributes"
    ratings, training = advice(rows, questions=256, steps=2)
    assert ratings.startswith("The reward model does not know humor yet")
    assert "more ratings" in ratings
    assert training.startswith("The policy does not follow quality well after 2 steps: train it longer")
    assert "after" not in advice(rows, questions=256, steps=2000)[1]


def test_all_or_nothing() -> None:
    good = verdicts(steering(humor=0.9), quality(humor=0.9))
    assert conclusion(good) == "steerable: the policy follows every attribute"
    assert advice(good, questions=256, steps=2) == []
    assert conclusion(verdicts(steering(humor=0.2))) == "not steerable yet: the policy follows no attribute"


def test_a_reward_model_alone() -> None:
    rows = verdicts(None, quality(humor=0.9, quality=0.4, toxicity=0.1, coherence=None))
    assert [row.text for row in rows] == ["known", "weakly known", "not known yet", "not measured"]
    assert conclusion(rows) == "the reward model knows 2 of 4 attributes"
    assert "quality, toxicity" in advice(rows)[0]
    assert len(advice(rows)) == 1
