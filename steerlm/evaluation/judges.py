# SPDX-License-Identifier: Apache-2.0
"""Judges give the attribute values of answers: the reward model, or the synthetic world's oracle."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from steerlm.attributes import AttributeSchema
from steerlm.prompt import ASSISTANT, USER, render_readout
from steerlm.records import Conversation, Turn

if TYPE_CHECKING:
    from steerlm.inference.config import OverLong
    from steerlm.inference.scorer import Scorer

Vectors = npt.NDArray[np.float64]
Judge = Callable[[Sequence[str], Sequence[str]], Vectors]
"""(questions, answers) -> [n, attributes] fp64 in schema order."""


def reward_judge(scorer: "Scorer", over_long: "OverLong" = "error") -> Judge:
    """Return a judge that gives the reward model's raw scores, clamped to the schema's range."""

    def judge(questions: Sequence[str], answers: Sequence[str]) -> Vectors:
        texts = [
            render_readout(
                Conversation(conversations=[Turn(value=q, speaker=USER), Turn(value=a, speaker=ASSISTANT)]), 1
            )
            for q, a in zip(questions, answers, strict=True)
        ]
        scores = np.asarray(scorer.score(texts, over_long), dtype=np.float64)
        return np.clip(scores, scorer.schema.low, scorer.schema.high)

    return judge


def oracle_judge(schema: AttributeSchema) -> Judge:
    """Return a judge that gives the synthetic world's true values, computed from the text without a model."""
    from steerlm.toyworld import oracle

    def judge(questions: Sequence[str], answers: Sequence[str]) -> Vectors:
        scored = [oracle.score(q, a) for q, a in zip(questions, answers, strict=True)]
        return np.array([[values[n] for n in schema.names] for values in scored], dtype=np.float64)

    return judge
