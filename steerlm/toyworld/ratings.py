# SPDX-License-Identifier: Apache-2.0
"""Simulate noisy human ratings from the true values of an answer.

Raters differ in leniency, make errors on every attribute and give integers. Some answers are rated on the attributes of
one dataset only, OASST's or HelpSteer's.
"""

import random
from collections.abc import Mapping

from steerlm.attributes import HELPSTEER, OASST
from steerlm.toyworld.config import RaterSettings

LOW, HIGH = 0, 4


def rate(truth: Mapping[str, float], settings: RaterSettings, rng: random.Random) -> dict[str, int]:
    """Return the mean of `settings.raters` ratings, rounded to an integer 0..4, for each rated attribute."""
    offsets = [rng.gauss(0, settings.leniency) for _ in range(settings.raters)]
    ratings: dict[str, int] = {}
    for name, value in truth.items():
        votes = [_to_level(value + offset + rng.gauss(0, settings.noise)) for offset in offsets]
        ratings[name] = _to_level(sum(votes) / len(votes))
    if rng.random() < settings.partial_share:
        rated = rng.choice((OASST, HELPSTEER))
        ratings = {name: value for name, value in ratings.items() if name in rated}
    return ratings


def _to_level(value: float) -> int:
    return min(max(round(value), LOW), HIGH)
