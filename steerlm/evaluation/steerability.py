# SPDX-License-Identifier: Apache-2.0
"""Steerability: request attribute values, judge the answers, correlate requested with obtained values.

Values are drawn independently and uniformly, so that no attribute profits from its correlation with another. A sweep
varies one attribute with the others at their defaults. Answerers and judges are arguments: this module uses neither
models nor servers.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from steerlm.attributes import AttributeSchema
from steerlm.evaluation.cases import SteeringCase, SweepCase, independent_cases, sweep_cases
from steerlm.evaluation.config import EvaluationSettings
from steerlm.evaluation.judges import Judge, Vectors
from steerlm.evaluation.quality import spearman

AnswerFunction = Callable[[Sequence[SteeringCase]], list[str]]


def evaluate_steering(
    questions: Sequence[str],
    schema: AttributeSchema,
    settings: EvaluationSettings,
    answer: AnswerFunction,
    judges: Mapping[str, Judge],
    baseline: AnswerFunction | None = None,
) -> dict[str, Any]:
    """Let the policy answer, judge the answers and return plain values for JSON.

    Keys: `attributes`, `range`, `questions`, `judges`: {judge: {attribute: {spearman, mae, curve: [[level, mean, p25,
    p75]], by_asked: [[level, mean]]}}}, `baseline`: {judge: {attribute: {spearman, mae, by_asked}}} of answers written
    without attributes, compared with the same requested values; `examples`: answers side by side.
    """
    cases = independent_cases(questions, schema, settings)
    sweep = sweep_cases(questions, schema, settings)
    answers = answer(cases + [point.case for point in sweep])
    free, swept = answers[: len(cases)], answers[len(cases) :]
    requested = np.array([[case.requested[n] for n in schema.active] for case in cases], dtype=np.float64)
    plain = baseline(cases) if baseline else None
    columns = [schema.names.index(n) for n in schema.active]
    result: dict[str, Any] = {
        "attributes": list(schema.active),
        "range": [schema.low, schema.high],
        "questions": len(cases),
        "judges": {},
        "baseline": {} if plain is not None else None,
        "examples": _examples(sweep, swept, cases, plain, settings),
    }
    for name, judge in judges.items():
        obtained = judge([c.question for c in cases], free)[:, columns]
        curve = judge([point.case.question for point in sweep], swept)[:, columns]
        result["judges"][name] = {
            attribute: {**_agreement(requested[:, k], obtained[:, k]), "curve": _curve(sweep, attribute, curve[:, k])}
            for k, attribute in enumerate(schema.active)
        }
        if plain is not None:
            base = judge([c.question for c in cases], plain)[:, columns]
            result["baseline"][name] = {a: _agreement(requested[:, k], base[:, k]) for k, a in enumerate(schema.active)}
    return result


def _agreement(requested: Vectors, obtained: Vectors) -> dict[str, Any]:
    levels = np.unique(requested)
    return {
        "spearman": spearman(requested, obtained),
        "mae": float(np.mean(np.abs(requested - obtained))),
        "by_asked": [[int(v), float(obtained[requested == v].mean())] for v in levels],
    }


def _curve(sweep: Sequence[SweepCase], attribute: str, obtained: Vectors) -> list[list[float]]:
    """[level, mean, 25th percentile, 75th percentile] of each level of one attribute's sweep."""
    points = []
    for level in sorted({point.level for point in sweep if point.attribute == attribute}):
        values = np.array(
            [
                value
                for point, value in zip(sweep, obtained, strict=True)
                if point.attribute == attribute and point.level == level
            ]
        )
        points.append([level, float(values.mean()), float(np.quantile(values, 0.25)), float(np.quantile(values, 0.75))])
    return points


def _examples(
    sweep: Sequence[SweepCase],
    swept: Sequence[str],
    cases: Sequence[SteeringCase],
    plain: Sequence[str] | None,
    settings: EvaluationSettings,
) -> dict[str, Any]:
    """Return the answers to the sweeps' first question by attribute and level, and some answers of the baseline."""
    pairs: dict[str, list[dict[str, Any]]] = {}
    for point, text in zip(sweep, swept, strict=True):
        if point.case.question == sweep[0].case.question:
            example = {"level": point.level, "question": point.case.question, "answer": text}
            pairs.setdefault(point.attribute, []).append(example)
    plain_shown = [
        {"question": case.question, "answer": text}
        for case, text in zip(cases[: settings.examples], (plain or [])[: settings.examples], strict=False)
    ]
    return {"dials": pairs, "baseline": plain_shown}
