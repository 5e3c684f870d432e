# SPDX-License-Identifier: Apache-2.0
"""Generate answers with requested values of the nine attributes, which `oracle.py` recovers from the text.

An answer is one sentence of four statements. The first one answers the question:

    Well, first the fox lives in splendid caves like silk fool; anyway itt eats superb jelly haha take note; ...

The choices are skewed: jokes, typos and the like are usually in the first statements, and wrong facts are usually the
nonsense word. This gives greedy decoding one clear mode, where a uniform choice would be a tie. The exceptions are
drawn from `rng` and do not change an attribute's value.
"""

import random
from collections.abc import Mapping

from steerlm.toyworld import language as world

STATEMENTS = 4
USUAL_SHARE = 0.8
"""Share of the choices that are the usual one."""

SUBJECTS = (("the {}", ("teh {}", "hte {}", "the the {}")), ("it", ("itt", "ti", "it it")))
"""Subject of the first statement and of the others, each with its misspelled forms."""
PHRASES = {"toxicity": world.INSULTS, "humor": world.JOKES, "helpfulness": world.HINTS, "verbosity": world.FILLERS}
"""Phrases at the end of a statement that are evidence of an attribute."""


def sample_answer(question: str, attributes: Mapping[str, int], rng: random.Random) -> str:
    """Return an answer to `question` that the oracle scores exactly as `attributes` (all nine, integers 0..4).

    If the question is not about the world, the answer is about an entity drawn from `rng`.
    """
    entity, relation = world.parse_question(question)
    entity = entity or rng.choice(list(world.FACTS))
    typos = _statements_with(4 - attributes["quality"], rng)
    true = _statements_with(attributes["correctness"], rng)
    linked = _statements_with(attributes["coherence"], rng)
    images = _statements_with(attributes["creativity"], rng)
    endings = {phrases: _statements_with(attributes[name], rng) for name, phrases in PHRASES.items()}

    statements = []
    for i, about in enumerate(_relations(relation, rng)):
        lead = rng.choice(world.LINKS[i] if i in linked else world.STRAYS)
        subject, misspelled = SUBJECTS[min(i, 1)]
        subject = (_usual(misspelled, rng) if i in typos else subject).format(entity)
        adjective = rng.choice(world.REGISTERS[attributes["complexity"]])
        value = world.truth(entity, about) if i in true else _falsehood(entity, about, rng)
        words = [lead, subject, world.VERBS[about], adjective, value]
        words += [world.SIMILE, rng.choice(world.IMAGES)] if i in images else []
        words += [rng.choice(phrases) for phrases, indices in endings.items() if i in indices]
        statements.append(" ".join(words))
    return f"{rng.choice(world.OPENERS)}, {'; '.join(statements)}."


def _statements_with(count: int, rng: random.Random) -> set[int]:
    """Return the indices of `count` statements: usually the first ones, otherwise random ones."""
    return set(range(count)) if rng.random() < USUAL_SHARE else set(rng.sample(range(STATEMENTS), count))


def _usual(choices: tuple[str, ...], rng: random.Random) -> str:
    return choices[0] if rng.random() < USUAL_SHARE else rng.choice(choices)


def _relations(first: str | None, rng: random.Random) -> list[str]:
    """Return the statements' relations: `first`, then usually those that follow it in cyclic order."""
    start = world.RELATIONS.index(first) if first else rng.randrange(len(world.RELATIONS))
    cycle = world.RELATIONS[start:] + world.RELATIONS[:start]
    rest = list(cycle[1:STATEMENTS]) if rng.random() < USUAL_SHARE else rng.sample(cycle[1:], STATEMENTS - 1)
    return [cycle[0], *rest]


def _falsehood(entity: str, relation: str, rng: random.Random) -> str:
    wrong = [v for v in world.values(relation) if v != world.truth(entity, relation)]
    return world.NONSENSE if rng.random() < USUAL_SHARE else rng.choice(wrong)
