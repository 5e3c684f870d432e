# SPDX-License-Identifier: Apache-2.0
"""Writes an answer that shows nine asked values, each by evidence of its own; `oracle.py` reads them back.

An answer is one sentence of four statements, what was asked first:

    Well, first the fox lives in splendid caves like silk fool; anyway itt eats superb jelly haha take note; ...

Who writes has habits: a count (of jokes, of slips) is mostly shown from the front, wrong facts are mostly nonsense. A
habit gives greedy decoding one mode to find where an even spread would give it a tie. Every exception is drawn from
`rng`, and none changes the value shown.
"""

import random
from collections.abc import Mapping

from steerlm.toyworld import language as world

STATEMENTS = 4
HABIT = 0.8
"""Share of the choices made as usual."""

SLIPS = (("the {}", ("teh {}", "hte {}", "the the {}")), ("it", ("itt", "ti", "it it")))
"""The subject of the first statement and of the others, each with its slips of the pen."""
SAID = {"toxicity": world.INSULTS, "humor": world.JOKES, "helpfulness": world.HINTS, "verbosity": world.FILLERS}
"""Attribute -> the phrases that show it at the end of a statement."""


def sample_answer(question: str, attributes: Mapping[str, int], rng: random.Random) -> str:
    """An answer to `question` whose oracle values are exactly `attributes` (all nine, whole numbers 0..4).

    A question about nothing of this world is answered about an entity drawn from `rng`.
    """
    entity, relation = world.asked(question)
    entity = entity or rng.choice(list(world.FACTS))
    slips = _spread(4 - attributes["quality"], rng)
    true = _spread(attributes["correctness"], rng)
    linked = _spread(attributes["coherence"], rng)
    images = _spread(attributes["creativity"], rng)
    said = {phrases: _spread(attributes[name], rng) for name, phrases in SAID.items()}

    statements = []
    for i, about in enumerate(_relations(relation, rng)):
        lead = rng.choice(world.LINKS[i] if i in linked else world.STRAYS)
        subject, misspelt = SLIPS[min(i, 1)]
        subject = (_usual(misspelt, rng) if i in slips else subject).format(entity)
        adjective = rng.choice(world.REGISTERS[attributes["complexity"]])
        value = world.truth(entity, about) if i in true else _falsehood(entity, about, rng)
        words = [lead, subject, world.VERBS[about], adjective, value]
        words += [world.SIMILE, rng.choice(world.IMAGES)] if i in images else []
        words += [rng.choice(phrases) for phrases, places in said.items() if i in places]
        statements.append(" ".join(words))
    return f"{rng.choice(world.OPENERS)}, {'; '.join(statements)}."


def _spread(count: int, rng: random.Random) -> set[int]:
    """Which `count` of the statements show it: the first ones as usual, else any."""
    return set(range(count)) if rng.random() < HABIT else set(rng.sample(range(STATEMENTS), count))


def _usual(choices: tuple[str, ...], rng: random.Random) -> str:
    return choices[0] if rng.random() < HABIT else rng.choice(choices)


def _relations(asked: str | None, rng: random.Random) -> list[str]:
    """What the statements are about: what was asked, then usually the relations that follow it in their ring."""
    start = world.RELATIONS.index(asked) if asked else rng.randrange(len(world.RELATIONS))
    ring = world.RELATIONS[start:] + world.RELATIONS[:start]
    rest = list(ring[1:STATEMENTS]) if rng.random() < HABIT else rng.sample(ring[1:], STATEMENTS - 1)
    return [ring[0], *rest]


def _falsehood(entity: str, relation: str, rng: random.Random) -> str:
    wrong = [v for v in world.values(relation) if v != world.truth(entity, relation)]
    return world.NONSENSE if rng.random() < HABIT else rng.choice(wrong)
