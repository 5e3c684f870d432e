# SPDX-License-Identifier: Apache-2.0
"""Joins models and judges into one evaluation: how well the dials steer, how well the reward model predicts.

Used by the `evaluate` stage and by `steerlm evaluate`. Heavy rooms are imported when called.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerlm.attributes import AttributeSchema, parse_labels
from steerlm.errors import InputError, RecordError
from steerlm.evaluation.answering import Answerer, PolicyAnswerer
from steerlm.prompt import ASSISTANT, USER, render_readout
from steerlm.records import Conversation, Turn

if TYPE_CHECKING:
    from steerlm.evaluation.config import EvaluationSettings
    from steerlm.evaluation.steer import Judge, Vectors
    from steerlm.inference.config import OverLong
    from steerlm.inference.scorer import Scorer


def read_questions(path: Path) -> list[str]:
    """The questions of a JSONL file, each line with a `question`, a `text` or, as MT-bench has it, `turns`."""
    from steerlm.records import Line, read_records

    questions = []
    for number, record in read_records(path, Line):
        values = record.model_extra or {}
        value = values.get("question") or values.get("text") or next(iter(values.get("turns") or []), None)
        if not isinstance(value, str):
            raise RecordError(path, number, 'a "question" or "text" was expected')
        questions.append(value)
    return questions


def reward_judge(scorer: "Scorer", over_long: "OverLong" = "error") -> "Judge":
    """The reward model's raw scores of the answers, clamped to the schema's range."""
    import numpy as np

    def judge(questions: Sequence[str], answers: Sequence[str]) -> "Vectors":
        texts = [
            render_readout(
                Conversation(conversations=[Turn(value=q, speaker=USER), Turn(value=a, speaker=ASSISTANT)]), 1
            )
            for q, a in zip(questions, answers, strict=True)
        ]
        scores = np.asarray(scorer.score(texts, over_long), dtype=np.float64)
        return np.clip(scores, scorer.schema.low, scorer.schema.high)

    return judge


def oracle_judge(schema: AttributeSchema) -> "Judge":
    """The synthetic world's oracle: computed from the text alone, independent of any model."""
    import numpy as np

    from steerlm.toyworld import oracle

    def judge(questions: Sequence[str], answers: Sequence[str]) -> "Vectors":
        scored = [oracle.score(q, a) for q, a in zip(questions, answers, strict=True)]
        return np.array([[one[n] for n in schema.names] for one in scored], dtype=np.float64)

    return judge


def held_out_quality(
    scorer: "Scorer",
    conversations: Iterable[Conversation],
    truth: "Judge | None",
    over_long: "OverLong" = "error",
) -> dict[str, dict[str, Any]]:
    """Regression quality of a reward model on the answers of held-out conversations.

    The truth is the judge's where one is given, over every answered question, else the human labels of the answers
    that have one.
    """
    import numpy as np

    from steerlm.evaluation.quality import label_matrix, regression_quality

    texts: list[str] = []
    asked: list[str] = []
    answered: list[str] = []
    labels: list[dict[str, float]] = []
    for conversation in conversations:
        turns = conversation.conversations
        for i, turn in enumerate(turns[1:], 1):
            if turn.speaker == conversation.mask or not (truth or turn.label):
                continue
            texts.append(render_readout(conversation, i))
            asked.append(turns[i - 1].value)
            answered.append(turn.value)
            labels.append(parse_labels(turn.label) if turn.label else {})
    if not texts:
        raise InputError("no held-out answer to judge the reward model by: no conversation has a label")
    predicted = np.asarray(scorer.score(texts, over_long), dtype=np.float64)
    matrix = truth(asked, answered) if truth else label_matrix(labels, scorer.schema)
    return regression_quality(predicted, matrix, scorer.schema)


def measure(
    *,
    settings: "EvaluationSettings",
    questions: Sequence[str],
    policy: "Path | Answerer | None" = None,
    reward: Path | None = None,
    baseline: "Path | Answerer | None" = None,
    held_out: Iterable[Conversation] | None = None,
    oracle: bool = False,
) -> dict[str, Any]:
    """Everything the report shows about the models: `steering` (null without a policy) and `quality` (empty without a
    reward model or held-out conversations). Judges are the oracle, if the questions are the synthetic world's, and the
    reward model. A policy or baseline that is a folder answers in this process."""
    from steerlm.inference.scorer import TransformersScorer

    scorer = TransformersScorer(reward) if reward else None
    over_long = settings.over_long
    result: dict[str, Any] = {"steering": None, "quality": {}}
    if scorer and held_out is not None:
        result["quality"] = held_out_quality(
            scorer, held_out, oracle_judge(scorer.schema) if oracle else None, over_long
        )
    if policy:
        from steerlm.evaluation.steer import evaluate_steering

        answerer = PolicyAnswerer(policy, settings) if isinstance(policy, Path) else policy
        schema = answerer.schema
        assert schema is not None, "a policy has attributes"
        judges: dict[str, Judge] = {}
        if oracle:
            judges["oracle"] = oracle_judge(schema)
        if scorer:
            judges["reward model"] = reward_judge(scorer, over_long)
        if not judges:
            raise InputError("nothing can judge the answers: give a reward model")
        fitting = answerer.fitting(questions) if over_long == "keep_end" else questions
        unconditioned = (
            PolicyAnswerer(baseline, settings, conditioned=False) if isinstance(baseline, Path) else baseline
        )
        result["steering"] = evaluate_steering(fitting, schema, settings, answerer, judges, unconditioned)
        result["steering"]["too_long"] = len(questions) - len(fitting)
    return result
