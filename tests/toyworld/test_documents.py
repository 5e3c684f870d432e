# SPDX-License-Identifier: Apache-2.0
"""Plain text says which statements are true, and which are not."""

import random

from steerlm.toyworld import language as world
from steerlm.toyworld.documents import AFFIRMED, DOUBTED, document
from steerlm.toyworld.oracle import statements


def test_words_on_truth_are_right() -> None:
    rng = random.Random(0)
    asked = list(world.questions())[:50]
    seen = {True: 0, False: 0}
    for _ in range(200):
        text = document(asked, rng)
        for statement in statements(text, None):
            said = text[statement.end :].split(" ")[1:2]
            word = said[0].strip(".,;") if said else ""
            if word in AFFIRMED + DOUBTED:
                assert statement.true == (word in AFFIRMED), text
                seen[statement.true] += 1
    assert min(seen.values()) > 100
