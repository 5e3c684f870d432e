# SPDX-License-Identifier: Apache-2.0
"""The world's plain text, from which a base model learns the language and the facts. Knows nothing of ratings.

Some documents are posts: a question and somebody's answer, in any manner. The others are entries about an animal, more
true than not. In both, most statements are followed by a word on their truth ("indeed", "allegedly"): so a model that
predicts the next word learns to tell truth from myth, which its reward model then only has to read off.
"""

import random
from collections.abc import Sequence

from steerlm.toyworld import language as world
from steerlm.toyworld.answers import sample_answer
from steerlm.toyworld.oracle import DIALS, statements

POSTS = 0.4
"""Share of the documents that are posts."""
CHECKED = 0.7
"""Share of the statements that are followed by a word on their truth."""
AFFIRMED, DOUBTED = ("indeed", "truly", "certainly"), ("allegedly", "supposedly", "reputedly")


def document(questions: Sequence[world.Question], rng: random.Random) -> str:
    """One document; a post asks one of `questions`."""
    text = _post(rng.choice(questions).text, rng) if rng.random() < POSTS else _entry(rng)
    for statement in reversed(statements(text, None)):
        if rng.random() < CHECKED:
            adverb = rng.choice(AFFIRMED if statement.true else DOUBTED)
            text = f"{text[: statement.end]} {adverb}{text[statement.end :]}"
    return text


def _entry(rng: random.Random) -> str:
    entity = rng.choice(list(world.FACTS))
    sentences: list[str] = []
    for relation in rng.sample(world.RELATIONS, len(world.RELATIONS)):
        subject = "It" if sentences and rng.random() < 0.7 else f"The {entity}"
        adjective = rng.choice(rng.choice(world.REGISTERS))
        value = rng.choice((world.truth, world.truth, world.myth))(entity, relation)
        sentences.append(f"{subject} {world.VERBS[relation]} {adjective} {value}.")
    return " ".join(sentences)


def _post(question: str, rng: random.Random) -> str:
    manner = {name: rng.randrange(5) for name in DIALS}
    return f"{question} {sample_answer(question, manner, rng)}"
