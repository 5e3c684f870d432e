# SPDX-License-Identifier: Apache-2.0
"""What an evaluation's numbers mean, attribute by attribute, and what to do about them.

The thresholds are rules of thumb: the demo's models reach 0.9 and more, and below 0.3 nobody notices a dial.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

FOLLOWS, SOME = 0.6, 0.3
"""Spearman's correlation of requested and obtained values, from which a dial is followed, and noticed at all."""
KNOWS = 0.5
"""Pearson's correlation of a reward model with ratings, from which its labels teach a policy something."""
FEW_STEPS = 200
STEERABLE = "steerable"
"""The verdict on an attribute whose dial the policy follows."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The numbers of one attribute and what they mean.

    Attributes:
        attribute: Its name.
        steering: Spearman's correlations of requested and obtained values by judge; empty without a policy. The first
            judge's decides.
        baseline: The same of answers without attributes, by the first judge.
        reward: Pearson's correlation of the reward model with ratings.
        text: The verdict.
    """

    attribute: str
    steering: Mapping[str, float] = field(default_factory=dict)
    baseline: float | None = None
    reward: float | None = None
    text: str = ""

    @property
    def follows(self) -> bool:
        """Whether the policy follows the dial."""
        return self.text == STEERABLE

    @property
    def reward_knows(self) -> bool:
        """Whether the reward model knows the attribute; assumed where nobody measured it."""
        return self.reward is None or self.reward >= KNOWS


def verdicts(
    steering: Mapping[str, Any] | None, quality: Mapping[str, Mapping[str, Any]] | None = None
) -> list[Verdict]:
    """Judge each attribute of an evaluation: `steering` of `evaluate_steering`, `quality` of `regression_quality`."""
    quality = quality or {}
    rewards = {name: _number(one.get("pearson")) for name, one in quality.items()}
    if not steering:
        return [Verdict(name, reward=value, text=_of_reward(value)) for name, value in rewards.items()]
    judges, first = steering["judges"], next(iter(steering["judges"]))
    plain = (steering.get("baseline") or {}).get(first, {})
    noise = noise_level(int(steering["questions"]))
    rows = []
    for name in steering["attributes"]:
        values = {judge: _number(one[name]["spearman"]) or 0.0 for judge, one in judges.items()}
        baseline = _number(plain[name]["spearman"]) if name in plain else None
        rows.append(Verdict(name, values, baseline, rewards.get(name), _of_steering(values[first], noise)))
    return rows


def advice(rows: Sequence[Verdict], questions: int | None = None, steps: int | None = None) -> list[str]:
    """Return what to do, in order of importance.

    Args:
        rows: The verdicts.
        questions: How many questions were asked.
        steps: Steps of the policy's training.
    """
    found = []
    unknown = [row.attribute for row in rows if not row.reward_knows]
    if unknown:
        found.append(
            f"The reward model does not know {_listed(unknown)} yet, and its labels are what a policy learns: "
            "give it more ratings of these, or train it longer (reward.epochs, reward.max_steps)."
        )
    deaf = [row.attribute for row in rows if row.steering and not row.follows and row.reward_knows]
    if deaf:
        few = f" after {steps} steps" if steps is not None and steps < FEW_STEPS else ""
        found.append(
            f"The policy does not follow {_listed(deaf)} well{few}: train it longer (sft.epochs, sft.max_steps), on "
            "more conversations, or start from a larger model."
        )
    if questions is not None and noise_level(questions) > SOME and any(row.steering for row in rows):
        found.append(
            f"With {questions} questions a correlation below {noise_level(questions):.2f} may be chance: "
            "raise evaluate.questions."
        )
    return found


def noise_level(questions: int) -> float:
    """Return the correlation that chance exceeds in about one of forty cases."""
    return min(1.0, 2 / math.sqrt(max(1, questions - 1)))


def conclusion(rows: Sequence[Verdict]) -> str:
    """Return one sentence about all attributes."""
    if not any(row.steering for row in rows):
        known = sum(row.reward_knows for row in rows)
        return f"the reward model knows {known} of {len(rows)} attributes"
    followed = sum(row.follows for row in rows)
    if followed == len(rows):
        return "steerable: the policy follows every attribute"
    if followed == 0:
        return "not steerable yet: the policy follows no attribute"
    return f"partly steerable: the policy follows {followed} of {len(rows)} attributes"


def _of_steering(rho: float, noise: float) -> str:
    if rho >= max(FOLLOWS, noise):
        return STEERABLE
    return "weakly steerable" if rho >= max(SOME, noise) else "not steerable yet"


def _of_reward(pearson: float | None) -> str:
    if pearson is None:
        return "not measured"
    return "known" if pearson >= KNOWS else "weakly known" if pearson >= SOME else "not known yet"


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _listed(names: Sequence[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
