# SPDX-License-Identifier: Apache-2.0
"""The reward model as a judge: its scores go to the policy's attributes by name."""

from collections.abc import Sequence

import numpy as np
import pytest

from steerlm.attributes import AttributeSchema
from steerlm.errors import InputError
from steerlm.evaluation.judges import reward_judge
from steerlm.inference.config import OverLong
from steerlm.inference.scorer import Scores


class Lengths:
    """Scores a text by its length, its attributes one apart."""

    window, identity = 99, "lengths"

    def __init__(self, *names: str, high: int = 4) -> None:
        self.schema = AttributeSchema(names=names, high=high)

    def score(self, texts: Sequence[str], over_long: OverLong = "error") -> Scores:
        base = np.array([[len(text) % 3 - 0.5] for text in texts])
        return (base + np.arange(len(self.schema.names))).astype(np.float32)


def test_scores_are_taken_by_name_and_clamped() -> None:
    policy = AttributeSchema(names=("bold", "unknown", "warm")).restricted(["bold", "warm"])
    scorer = Lengths("warm", "brief", "bold")
    judged = reward_judge(scorer, policy)(["q", "q", "q"], ["a", "aa", "aaa"])
    warm = np.sort(judged[:, 2])
    assert warm.tolist() == [0, 0.5, 1.5], "-0.5 is below the range"
    assert np.sort(judged[:, 0]).tolist() == [1.5, 2.5, 3.5]
    assert np.isnan(judged[:, 1]).all()


def test_a_reward_model_of_other_attributes_is_refused() -> None:
    policy = AttributeSchema(names=("warm", "calm", "bold"))
    with pytest.raises(InputError, match="cannot judge the policy's calm: its attributes are warm, brief, bold; give"):
        reward_judge(Lengths("warm", "brief", "bold"), policy)
    with pytest.raises(InputError, match=r"the range 0\.\.4, the reward model's 0\.\.9; give"):
        reward_judge(Lengths("warm", "calm", "bold", high=9), policy)
