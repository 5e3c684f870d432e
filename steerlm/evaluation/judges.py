# SPDX-License-Identifier: Apache-2.0
"""Judges give the attribute values of answers: the reward model, or the synthetic world's oracle."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from steerlm.attributes import AttributeSchema
from steerlm.errors import InputError
from steerlm.prompt import ASSISTANT, USER, render_readout
from steerlm.records import Conversation, Turn

if TYPE_CHECKING:
    from steerlm.inference.config import OverLong
    from steerlm.inference.scorer import Scorer

Vectors = npt.NDArray[np.float64]
Judge = Callable[[Sequence[str], Sequence[str]], Vectors]
"""(questions, answers) -> [n, attributes] fp64 in schema order."""


def reward_judge(scorer: "Scorer", schema: AttributeSchema, over_long: "OverLong" = "error") -> Judge:
    """Return a judge that gives the reward model's raw scores in the order of `schema`, clamped to its range.

    An attribute that is not trained in `schema` and unknown to the reward model has NaN.

    Raises:
        InputError: The reward model has no score for a trained one, or its scores have another range.
    """
    own = scorer.schema
    if missing := [name for name in schema.active if name not in own.names]:
        raise InputError(
            f"the reward model cannot judge the policy's {', '.join(missing)}: its attributes are "
            f"{', '.join(own.names)}; give a reward model of the policy's attributes"
        )
    if (schema.low, schema.high) != (own.low, own.high):
        raise InputError(
            f"the policy's attributes have the range {schema.low}..{schema.high}, the reward model's "
            f"{own.low}..{own.high}; give a reward model of the same range"
        )
    known = [name for name in schema.names if name in own.names]

    def judge(questions: Sequence[str], answers: Sequence[str]) -> Vectors:
        texts = [
            render_readout(
                Conversation(conversations=[Turn(value=q, speaker=USER), Turn(value=a, speaker=ASSISTANT)]), 1
            )
            for q, a in zip(questions, answers, strict=True)
        ]
        scores = np.asarray(scorer.score(texts, over_long), dtype=np.float64)
        vectors = np.full((len(texts), len(schema.names)), np.nan)
        vectors[:, [schema.names.index(name) for name in known]] = scores[:, [own.names.index(name) for name in known]]
        return np.asarray(np.clip(vectors, schema.low, schema.high), dtype=np.float64)

    return judge


def oracle_judge(schema: AttributeSchema) -> Judge:
    """Return a judge that gives the synthetic world's true values, computed from the text without a model."""
    from steerlm.toyworld import oracle

    def judge(questions: Sequence[str], answers: Sequence[str]) -> Vectors:
        scored = [oracle.score(q, a) for q, a in zip(questions, answers, strict=True)]
        return np.array([[values[n] for n in schema.names] for values in scored], dtype=np.float64)

    return judge
