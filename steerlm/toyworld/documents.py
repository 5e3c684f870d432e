# SPDX-License-Identifier: Apache-2.0
"""Generate plain text from which a base model learns the world's language and facts.

Some documents are posts: a question and an answer with random attributes. The others are entries about one animal,
which are mostly true. In both, most statements are followed by an adverb that affirms or doubts them ("indeed",
"allegedly"). Predicting it teaches the base model which statements are true, and the reward model can build on that.
"""

import random
from collections.abc import Sequence

from steerlm.toyworld import language as world
from steerlm.toyworld.answers import sample_answer
from steerlm.toyworld.oracle import ATTRIBUTES, statements

POST_SHARE = 0.4
"""Share of the documents that are posts."""
ADVERB_SHARE = 0.7
"""Share of the statements that are followed by an adverb on their truth."""
TRUE_ADVERBS, FALSE_ADVERBS = ("indeed", "truly", "certainly"), ("allegedly", "supposedly", "reputedly")


def document(questions: Sequence[world.Question], rng: random.Random) -> str:
    """Return a random document: a post with one of `questions`, or an entry."""
    text = _post(rng.choice(questions).text, rng) if rng.random() < POST_SHARE else _entry(rng)
    for statement in reversed(statements(text, None)):
        if rng.random() < ADVERB_SHARE:
            adverb = rng.choice(TRUE_ADVERBS if statement.true else FALSE_ADVERBS)
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
    attributes = {name: rng.randrange(5) for name in ATTRIBUTES}
    return f"{question} {sample_answer(question, attributes, rng)}"
