# SPDX-License-Identifier: Apache-2.0
"""Adverbs in plain text mark which statements are true and which are false."""

import random

from steerlm.toyworld import language as world
from steerlm.toyworld.documents import FALSE_ADVERBS, TRUE_ADVERBS, document
from steerlm.toyworld.oracle import statements


def test_adverbs_agree_with_the_truth_of_statements() -> None:
    rng = random.Random(0)
    questions = list(world.questions())[:50]
    seen = {True: 0, False: 0}
    for _ in range(200):
        text = document(questions, rng)
        for statement in statements(text, None):
            following = text[statement.end :].split(" ")[1:2]
            word = following[0].strip(".,;") if following else ""
            if word in TRUE_ADVERBS + FALSE_ADVERBS:
                assert statement.true == (word in TRUE_ADVERBS), text
                seen[statement.true] += 1
    assert min(seen.values()) > 100
