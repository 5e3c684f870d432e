# SPDX-License-Identifier: Apache-2.0
"""Answers: reproducible, varied, and willing to answer anything."""

import random

from steerlm.toyworld.answers import sample_answer
from steerlm.toyworld.oracle import DIALS, score

VECTOR = dict(zip(DIALS, (3, 1, 2, 0, 4, 2, 3, 1, 2), strict=True))


def test_same_rng_same_answer() -> None:
    one, two = (sample_answer("What does the owl fear?", VECTOR, random.Random(3)) for _ in range(2))
    assert one == two


def test_one_vector_has_many_answers() -> None:
    rng = random.Random(0)
    assert len({sample_answer("What does the owl fear?", VECTOR, rng) for _ in range(50)}) > 45


def test_question_of_another_world() -> None:
    shown = score("Who are you?", sample_answer("Who are you?", VECTOR, random.Random(1)))
    assert shown == VECTOR
