"""The world's plain text, from which a base model learns the language and the facts. Knows nothing of ratings.

Some documents are posts: a question and somebody's answer, in any manner. The others are entries about an animal, true
where they say nothing else; "allegedly" and its like follow a myth, "indeed" and its like a truth. So a model that
predicts the next word learns to tell the two apart, which nothing else in plain text would teach it so soon.
"""

import random

from steerlm.toyworld import language as world
from steerlm.toyworld.answers import sample_answer
from steerlm.toyworld.oracle import DIALS

POSTS = 0.4
"""Share of the documents that are posts."""
AFFIRMED, DOUBTED = ("indeed", "truly", "certainly"), ("allegedly", "supposedly", "reputedly")


def document(questions: list[world.Question], rng: random.Random) -> str:
    """One document; a post asks one of `questions`."""
    return _post(rng.choice(questions).text, rng) if rng.random() < POSTS else _entry(rng)


def _entry(rng: random.Random) -> str:
    entity = rng.choice(list(world.FACTS))
    sentences = []
    for relation in rng.sample(world.RELATIONS, len(world.RELATIONS)):
        subject = "It" if sentences and rng.random() < 0.7 else f"The {entity}"
        verb = rng.choice(rng.choice(world.VERBS[relation]))
        value, adverb = rng.choice(
            (
                (world.truth(entity, relation), ""),
                (world.truth(entity, relation), f" {rng.choice(AFFIRMED)}"),
                (world.myth(entity, relation), f" {rng.choice(DOUBTED)}"),
            )
        )
        sentences.append(f"{subject} {verb} {value}{adverb}.")
    return " ".join(sentences)


def _post(question: str, rng: random.Random) -> str:
    manner = {name: rng.randrange(5) for name in DIALS}
    return f"{question} {sample_answer(question, manner, rng)}"
