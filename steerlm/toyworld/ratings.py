# SPDX-License-Identifier: Apache-2.0
"""Noisy human-like ratings of an answer whose true values are known. Knows nothing of texts.

People differ in leniency, err on every attribute, and give whole numbers; some fill in one questionnaire only.
"""

import random
from collections.abc import Mapping

from steerlm.attributes import HELPSTEER, OASST
from steerlm.toyworld.config import RaterSettings

LOW, HIGH = 0, 4


def rate(truth: Mapping[str, float], settings: RaterSettings, rng: random.Random) -> dict[str, int]:
    """The mean of `settings.raters` whole-number ratings, rounded to a whole number 0..4, for the attributes rated."""
    shifts = [rng.gauss(0, settings.leniency) for _ in range(settings.raters)]
    ratings: dict[str, int] = {}
    for name, value in truth.items():
        votes = [_whole(value + shift + rng.gauss(0, settings.noise)) for shift in shifts]
        ratings[name] = _whole(sum(votes) / len(votes))
    if rng.random() < settings.partial_share:
        questionnaire = rng.choice((OASST, HELPSTEER))
        ratings = {name: value for name, value in ratings.items() if name in questionnaire}
    return ratings


def _whole(value: float) -> int:
    return min(max(round(value), LOW), HIGH)
