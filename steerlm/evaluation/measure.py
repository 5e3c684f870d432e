# SPDX-License-Identifier: Apache-2.0
"""One evaluation of a policy and a reward model: steerability, and quality on held-out conversations.

Used by the `evaluate` stage and by `steerlm evaluate`.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerlm.attributes import parse_labels
from steerlm.errors import InputError
from steerlm.evaluation.answerer import Answerer, InProcessAnswerer
from steerlm.evaluation.config import EvaluationSettings
from steerlm.evaluation.judges import Judge, oracle_judge, reward_judge
from steerlm.evaluation.quality import label_matrix, regression_quality
from steerlm.evaluation.steerability import evaluate_steering
from steerlm.prompt import render_readout
from steerlm.records import Conversation

if TYPE_CHECKING:
    from steerlm.inference.config import OverLong
    from steerlm.inference.scorer import Scorer


def measure(
    *,
    settings: EvaluationSettings,
    questions: Sequence[str],
    policy: Path | Answerer | None = None,
    reward: "Path | Scorer | None" = None,
    baseline: Path | Answerer | None = None,
    held_out: Iterable[Conversation] | None = None,
    oracle: bool = False,
) -> dict[str, Any]:
    """Return everything that the report shows about the models, as plain values for JSON.

    `steering` is None without a policy, `quality` empty without a reward model or held-out conversations.

    Args:
        settings: How to evaluate.
        questions: Held-out questions.
        policy: An answerer, or a model folder that answers in this process.
        reward: The reward model, which judges: a scorer, or a folder that is loaded in this process.
        baseline: A model that answers without attributes, given like the policy.
        held_out: Labeled conversations.
        oracle: The questions are the synthetic world's; its oracle judges too.

    Raises:
        InputError: Nothing can judge the answers.
    """
    scorer = _scorer(reward)
    result: dict[str, Any] = {"steering": None, "quality": {}}
    if scorer and held_out is not None:
        truth = oracle_judge(scorer.schema) if oracle else None
        result["quality"] = held_out_quality(scorer, held_out, truth, settings.over_long)
    if policy:
        result["steering"] = _measure_steering(settings, questions, policy, scorer, baseline, oracle)
    return result


def _scorer(reward: "Path | Scorer | None") -> "Scorer | None":
    if not isinstance(reward, Path):
        return reward
    from steerlm.inference.scorer import TransformersScorer

    return TransformersScorer(reward)


def _measure_steering(
    settings: EvaluationSettings,
    questions: Sequence[str],
    policy: Path | Answerer,
    scorer: "Scorer | None",
    baseline: Path | Answerer | None,
    oracle: bool,
) -> dict[str, Any]:
    answerer = InProcessAnswerer(policy, settings) if isinstance(policy, Path) else policy
    schema = answerer.schema
    assert schema is not None, "a policy has attributes"
    judges: dict[str, Judge] = {}
    if oracle:
        judges["oracle"] = oracle_judge(schema)
    if scorer:
        judges["reward model"] = reward_judge(scorer, schema, settings.over_long)
    if not judges:
        raise InputError("nothing can judge the answers: give a reward model")
    fitting = answerer.fitting(questions) if settings.over_long == "keep_end" else questions
    if isinstance(baseline, Path):
        baseline = InProcessAnswerer(baseline, settings, conditioned=False)
    result = evaluate_steering(fitting, schema, settings, answerer, judges, baseline)
    result["too_long"] = len(questions) - len(fitting)
    result["untrained"] = [name for name in schema.active if scorer and name not in scorer.schema.active]
    return result


def held_out_quality(
    scorer: "Scorer",
    conversations: Iterable[Conversation],
    truth: Judge | None,
    over_long: "OverLong" = "error",
) -> dict[str, dict[str, Any]]:
    """Return the regression quality of a reward model on the answers of held-out conversations.

    With a judge as `truth`, all answers count; without, those with human labels.

    Raises:
        InputError: There is no such answer.
    """
    import numpy as np

    texts: list[str] = []
    questions: list[str] = []
    answers: list[str] = []
    labels: list[dict[str, float]] = []
    for conversation in conversations:
        turns = conversation.conversations
        for i, turn in enumerate(turns[1:], 1):
            if turn.speaker == conversation.mask or not (truth or turn.label):
                continue
            texts.append(render_readout(conversation, i))
            questions.append(turns[i - 1].value)
            answers.append(turn.value)
            labels.append(parse_labels(turn.label) if turn.label else {})
    if not texts:
        raise InputError("no held-out answer to judge the reward model by: no conversation has a label")
    predicted = np.asarray(scorer.score(texts, over_long), dtype=np.float64)
    matrix = truth(questions, answers) if truth else label_matrix(labels, scorer.schema)
    return regression_quality(predicted, matrix, scorer.schema)
