# SPDX-License-Identifier: Apache-2.0
"""Goals are compared with the numbers of the evaluation."""

from steerlm.recipe import Goals
from steerlm.stages.evaluate import summary
from steerlm.stages.report import check

RESULT = {
    "quality": {"quality": {"pearson": 0.9}, "humor": {"pearson": 0.7}},
    "steering": {
        "too_long": 3,
        "judges": {
            "oracle": {"quality": {"spearman": 0.9}, "humor": {"spearman": 0.8}},
            "reward model": {"quality": {"spearman": 0.1}, "humor": {"spearman": 0.1}},
        },
    },
}


def test_numbers_of_an_evaluation() -> None:
    numbers = summary(RESULT)
    assert numbers == {
        "reward_pearson/quality": 0.9,
        "reward_pearson/humor": 0.7,
        "steering_spearman/quality": 0.9,
        "steering_spearman/humor": 0.8,
        "steering_spearman_mean": 0.8500000000000001,
        "questions_too_long": 3,
    }
    assert summary({"quality": RESULT["quality"], "steering": None}).keys() == {
        "reward_pearson/quality",
        "reward_pearson/humor",
    }


def test_a_goal_names_the_lowest_attribute() -> None:
    goals = check(Goals(reward_pearson=0.8, steering_spearman=0.6, steering_spearman_mean=0.9), summary(RESULT))
    assert [(g.value, g.met) for g in goals] == [("0.700 (humor)", False), ("0.800 (humor)", True), ("0.850", False)]
    assert check(Goals(steering_spearman=0.6), {}) == []
    assert check(Goals(), summary(RESULT)) == []
