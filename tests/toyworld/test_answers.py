# SPDX-License-Identifier: Apache-2.0
"""Generated answers are reproducible, varied and exist for any question."""

import random

from steerlm.toyworld.answers import sample_answer
from steerlm.toyworld.oracle import ATTRIBUTES, score

VECTOR = dict(zip(ATTRIBUTES, (3, 1, 2, 0, 4, 2, 3, 1, 2), strict=True))


def test_the_same_seed_gives_the_same_answer() -> None:
    one, two = (sample_answer("What does the owl fear?", VECTOR, random.Random(3)) for _ in range(2))
    assert one == two


def test_answers_with_the_same_attributes_vary() -> None:
    rng = random.Random(0)
    assert len({sample_answer("What does the owl fear?", VECTOR, rng) for _ in range(50)}) > 45


def test_questions_outside_the_world_are_answered() -> None:
    scores = score("Who are you?", sample_answer("Who are you?", VECTOR, random.Random(1)))
    assert scores == VECTOR
