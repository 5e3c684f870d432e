# SPDX-License-Identifier: Apache-2.0
"""Simulated ratings are integers, close to the truth and sometimes partial."""

import random

import numpy as np

from steerlm.attributes import HELPSTEER, OASST
from steerlm.toyworld.config import RaterSettings
from steerlm.toyworld.oracle import ATTRIBUTES
from steerlm.toyworld.ratings import rate


def test_ratings_correlate_with_the_truth() -> None:
    rng = random.Random(0)
    truths = [{name: rng.randrange(5) for name in ATTRIBUTES} for _ in range(3000)]
    ratings = [rate(truth, RaterSettings(partial_share=0), rng) for truth in truths]
    for name in ATTRIBUTES:
        pairs = np.array([(truth[name], rating[name]) for truth, rating in zip(truths, ratings, strict=True)])
        assert set(np.unique(pairs)) == {0, 1, 2, 3, 4}
        assert 0.9 < np.corrcoef(pairs.T)[0, 1] < 0.95


def test_without_noise_the_rating_is_the_truth() -> None:
    truth = dict.fromkeys(ATTRIBUTES, 3.0)
    assert rate(truth, RaterSettings(noise=0, leniency=0, partial_share=0), random.Random(0)) == truth


def test_partial_ratings_have_the_attributes_of_one_dataset() -> None:
    rng = random.Random(0)
    seen = [tuple(rate(dict.fromkeys(ATTRIBUTES, 2.0), RaterSettings(partial_share=0.5), rng)) for _ in range(400)]
    assert set(seen) == {tuple(ATTRIBUTES), OASST, HELPSTEER}
    assert 150 < sum(names != tuple(ATTRIBUTES) for names in seen) < 250
