# SPDX-License-Identifier: Apache-2.0
"""Steerability: ask with the dials set, judge what comes back, correlate asked with obtained.

Dials are drawn independently and uniformly, so that no dial can shine by another's light. A curve sweeps one dial with
the others at their defaults. Judges and answerers are handed in: an answerer writes, a judge gives a vector in schema
order for (question, answer); the room knows neither models nor servers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from steerlm.attributes import AttributeSchema
from steerlm.errors import InputError
from steerlm.evaluation.config import EvaluationSettings
from steerlm.evaluation.quality import spearman

Vectors = npt.NDArray[np.float64]
Judge = Callable[[Sequence[str], Sequence[str]], Vectors]
"""(questions, answers) -> [n, attributes] fp64."""


@dataclass(frozen=True, slots=True)
class Case:
    """One question with the dials asked for: every trained attribute of the schema."""

    question: str
    asked: dict[str, int]


Answerer = Callable[[Sequence[Case]], list[str]]


def independent_cases(questions: Sequence[str], schema: AttributeSchema, settings: EvaluationSettings) -> list[Case]:
    """`settings.questions` different questions, each with dials drawn independently and uniformly."""
    if len(questions) < settings.questions:
        raise InputError(
            f"{len(questions)} questions to evaluate on, {settings.questions} are needed (evaluate.questions)"
        )
    rng = np.random.default_rng([settings.seed, 1])
    chosen = rng.permutation(len(questions))[: settings.questions]
    draws = rng.integers(schema.low, schema.high + 1, size=(len(chosen), len(schema.active)))
    return [
        Case(questions[q], dict(zip(schema.active, map(int, row), strict=True)))
        for q, row in zip(chosen, draws, strict=True)
    ]


def curve_cases(
    questions: Sequence[str], schema: AttributeSchema, settings: EvaluationSettings
) -> list[tuple[str, int, Case]]:
    """(attribute, level, case) of every dial's sweep; all sweeps ask the same questions."""
    rng = np.random.default_rng([settings.seed, 2])
    chosen = rng.permutation(len(questions))[: settings.curve_questions]
    return [
        (name, level, Case(questions[q], schema.complete({name: level})))
        for name in schema.active
        for level in range(schema.low, schema.high + 1)
        for q in chosen
    ]


def evaluate_steering(
    questions: Sequence[str],
    schema: AttributeSchema,
    settings: EvaluationSettings,
    answer: Answerer,
    judges: Mapping[str, Judge],
    baseline: Answerer | None = None,
) -> dict[str, Any]:
    """Ask and judge; returns plain values ready for JSON.

    Keys: `attributes`, `questions`, `judges`: {judge: {attribute: {spearman, mae, curve: [[level, mean, p25, p75]],
    by_asked: [...]}}}, `baseline`: {judge: {attribute: {spearman, mae}}} of answers written without any dial (judged
    against the same asked vectors, which it never saw), `examples`: answers side by side.
    """
    cases = independent_cases(questions, schema, settings)
    sweep = curve_cases(questions, schema, settings)
    answers = answer(cases + [case for _, _, case in sweep])
    free, swept = answers[: len(cases)], answers[len(cases) :]
    asked = np.array([[case.asked[n] for n in schema.active] for case in cases], dtype=np.float64)
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
        got = judge([c.question for c in cases], free)[:, columns]
        curve = judge([c.question for _, _, c in sweep], swept)[:, columns]
        result["judges"][name] = {
            attribute: {**_agreement(asked[:, k], got[:, k]), "curve": _curve(sweep, attribute, curve[:, k])}
            for k, attribute in enumerate(schema.active)
        }
        if plain is not None:
            base = judge([c.question for c in cases], plain)[:, columns]
            result["baseline"][name] = {a: _agreement(asked[:, k], base[:, k]) for k, a in enumerate(schema.active)}
    return result


def _agreement(asked: Vectors, got: Vectors) -> dict[str, Any]:
    levels = np.unique(asked)
    return {
        "spearman": spearman(asked, got),
        "mae": float(np.mean(np.abs(asked - got))),
        "by_asked": [[int(v), float(got[asked == v].mean())] for v in levels],
    }


def _curve(sweep: Sequence[tuple[str, int, Case]], attribute: str, got: Vectors) -> list[list[float]]:
    points = []
    for level in sorted({level for name, level, _ in sweep if name == attribute}):
        values = np.array([v for (n, lv, _), v in zip(sweep, got, strict=True) if n == attribute and lv == level])
        points.append([level, float(values.mean()), float(np.quantile(values, 0.25)), float(np.quantile(values, 0.75))])
    return points


def _examples(
    sweep: Sequence[tuple[str, int, Case]],
    swept: Sequence[str],
    cases: Sequence[Case],
    plain: Sequence[str] | None,
    settings: EvaluationSettings,
) -> dict[str, Any]:
    """Per attribute, the answers to the sweeps' first question, by level; and some answers of the baseline."""
    pairs: dict[str, list[dict[str, Any]]] = {}
    for (name, level, case), text in zip(sweep, swept, strict=True):
        if case.question == sweep[0][2].question:
            pairs.setdefault(name, []).append({"level": level, "question": case.question, "answer": text})
    plain_shown = [
        {"question": case.question, "answer": text}
        for case, text in zip(cases[: settings.examples], (plain or [])[: settings.examples], strict=False)
    ]
    return {"dials": pairs, "baseline": plain_shown}
