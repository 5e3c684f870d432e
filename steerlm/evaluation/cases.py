# SPDX-License-Identifier: Apache-2.0
"""The questions of an evaluation with the attribute values that are requested for them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from steerlm.attributes import AttributeSchema
from steerlm.errors import InputError
from steerlm.evaluation.config import EvaluationSettings
from steerlm.inference.uniforms import entropy


@dataclass(frozen=True, slots=True)
class SteeringCase:
    """One question and the requested value of every trained attribute of the schema."""

    question: str
    requested: dict[str, int]


def independent_cases(
    questions: Sequence[str], schema: AttributeSchema, settings: EvaluationSettings
) -> list[SteeringCase]:
    """Draw `settings.questions` different questions, with attribute values drawn independently and uniformly.

    Raises:
        InputError: There are fewer questions.
    """
    if len(questions) < settings.questions:
        raise InputError(
            f"{len(questions)} questions to evaluate on, {settings.questions} are needed (evaluate.questions)"
        )
    rng = np.random.default_rng(entropy(settings.seed, 1))
    chosen = rng.permutation(len(questions))[: settings.questions]
    draws = rng.integers(schema.low, schema.high + 1, size=(len(chosen), len(schema.active)))
    return [
        SteeringCase(questions[q], dict(zip(schema.active, map(int, row), strict=True)))
        for q, row in zip(chosen, draws, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class SweepCase:
    """A case of the sweep over one attribute; the other attributes have their defaults."""

    attribute: str
    level: int
    case: SteeringCase


def sweep_cases(questions: Sequence[str], schema: AttributeSchema, settings: EvaluationSettings) -> list[SweepCase]:
    """Return the cases of every attribute's sweep over all levels. All sweeps use the same questions."""
    rng = np.random.default_rng(entropy(settings.seed, 2))
    chosen = rng.permutation(len(questions))[: settings.curve_questions]
    return [
        SweepCase(name, level, SteeringCase(questions[q], schema.complete({name: level})))
        for name in schema.active
        for level in range(schema.low, schema.high + 1)
        for q in chosen
    ]
