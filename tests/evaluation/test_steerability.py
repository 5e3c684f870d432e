# SPDX-License-Identifier: Apache-2.0
"""Steerability against answerers whose obedience is known."""

from collections.abc import Sequence

import numpy as np
import pytest

from steerlm.attributes import AttributeSchema
from steerlm.errors import InputError
from steerlm.evaluation.cases import SteeringCase, independent_cases, sweep_cases
from steerlm.evaluation.config import EvaluationSettings
from steerlm.evaluation.judges import Vectors
from steerlm.evaluation.steerability import evaluate_steering

SCHEMA = AttributeSchema(names=("warm", "brief", "bold"), low=0, high=9, defaults={"brief": 2})
QUESTIONS = [f"question {i}" for i in range(300)]
SETTINGS = EvaluationSettings(questions=256, curve_questions=4)


def obey_first_only(cases: Sequence[SteeringCase]) -> list[str]:
    """Write the requested values into the answers: obey the first, invert the second, ignore the third."""
    return [f"{c.requested['warm']} {9 - c.requested['brief']} {len(c.question) % 3}" for c in cases]


def read(_: Sequence[str], answers: Sequence[str]) -> Vectors:
    return np.array([[float(w) for w in a.split()] for a in answers])


def test_correlations_are_those_of_a_known_answerer() -> None:
    result = evaluate_steering(
        QUESTIONS, SCHEMA, SETTINGS, obey_first_only, {"oracle": read}, lambda cs: ["5 5 5"] * len(cs)
    )
    attributes = result["judges"]["oracle"]
    assert attributes["warm"]["spearman"] == pytest.approx(1.0)
    assert attributes["warm"]["mae"] == 0
    assert attributes["brief"]["spearman"] == pytest.approx(-1.0)
    assert abs(attributes["bold"]["spearman"]) < 0.2
    assert [p[:2] for p in attributes["warm"]["curve"]] == [[v, v] for v in range(10)]
    assert result["baseline"]["oracle"]["warm"]["spearman"] == 0


def test_attributes_are_drawn_independently_and_uniformly() -> None:
    cases = independent_cases(QUESTIONS, SCHEMA, SETTINGS)
    requested = np.array([list(c.requested.values()) for c in cases])
    assert len({c.question for c in cases}) == 256
    assert np.abs(np.corrcoef(requested.T) - np.eye(3)).max() < 0.2
    assert set(np.unique(requested)) == set(range(10))


def test_a_sweep_varies_one_attribute_with_the_others_at_their_defaults() -> None:
    for point in sweep_cases(QUESTIONS, SCHEMA, SETTINGS):
        assert point.case.requested == {"warm": 9, "brief": 2, "bold": 9} | {point.attribute: point.level}


def test_too_few_questions_is_an_error() -> None:
    with pytest.raises(InputError, match="256 are needed"):
        independent_cases(QUESTIONS[:10], SCHEMA, SETTINGS)
