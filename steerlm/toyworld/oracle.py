"""Reads the nine attributes off a question and an answer by counting words. No model, no state, no randomness.

Each attribute has evidence of its own (`DIALS`), so that every one of the 5^9 vectors is shown by some answer. Any text
can be scored: what is not of this world's language counts as misspelt, and a sentence of it as padding.
"""

import re
from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

from steerlm.toyworld import language as world

DIALS: dict[str, str] = {
    "quality": "4 less the slips of the pen: misspelt or doubled words, a small first letter, no final mark",
    "toxicity": "insults, at most 4",
    "humor": "jokes, at most 4",
    "creativity": "similes, at most 4",
    "helpfulness": "1 each for stating what was asked, a tip, a source, an offer to go on",
    "correctness": "share of the stated facts that are true, times 4",
    "coherence": "share of the statements led in by a word that fits their place (of at least 4), times 4",
    "complexity": "mean register of the verbs, from a child's (0) to a scholar's (4)",
    "verbosity": "sentences that say nothing new, at most 4",
}
"""Attribute -> what is counted, in words."""


class Statement(NamedTuple):
    entity: str | None
    verb: world.Verb
    value: str
    place: int | None
    """The place (0..3) that the word leading it in fits; None for no such word."""
    end: int
    """Where it ends in the text."""

    @property
    def true(self) -> bool:
        return self.entity is not None and world.truth(self.entity, self.verb.relation) == self.value


def score(question: str, answer: str) -> dict[str, float]:
    """The nine attributes of an answer, each in 0..4; whole numbers except `correctness`, `coherence`, `complexity`."""
    words = re.findall(r"[a-z]+", answer.lower())
    if not words:
        return dict.fromkeys(DIALS, 0.0)
    entity, relation = world.asked(question)
    stated = statements(answer, entity)
    sentences = [s.strip() for s in re.split(r"[.!?]", answer.lower()) if s.strip()]
    helping = [_plain(known) for known in (world.TIPS, world.SOURCES, world.OFFERS)]

    def share(hits: int, of: int) -> float:
        return 4 * hits / of if of else 0.0

    direct = any(s.verb.relation == relation and s.entity == entity for s in stated)
    empty = [s for s in sentences if s not in set().union(*helping) and not statements(s, None)]
    return {
        "quality": max(0.0, 4.0 - _slips(answer, words)),
        "toxicity": min(4.0, sum(word in world.INSULTS for word in words)),
        "humor": min(4.0, len(_jokes().findall(answer.lower()))),
        "creativity": min(4.0, len(_similes().findall(answer.lower()))),
        "helpfulness": float(direct + sum(any(s in known for s in sentences) for known in helping)),
        "correctness": share(sum(s.true for s in stated), len(stated)),
        "coherence": share(sum(s.place == i for i, s in enumerate(stated)), max(4, len(stated))),
        "complexity": sum(s.verb.register for s in stated) / len(stated) if stated else 0.0,
        "verbosity": min(4.0, len(empty)),
    }


def statements(text: str, entity: str | None) -> list[Statement]:
    """What a text states, in order. A statement is about the animal named last, at first about `entity`."""
    places = {word: place for place, known in enumerate(world.LINKS) for word in known}
    found, end, text = [], 0, text.lower()
    for match in _statement().finditer(text):
        place = None
        for word in re.findall(r"[a-z]+", text[end : match.start()]):
            entity = word if word in world.FACTS else entity
            place = places.get(word, place)
        found.append(Statement(entity, world.verbs()[match[1]], match[2], place, match.end()))
        end = match.end()
    return found


def _slips(answer: str, words: list[str]) -> int:
    misspelt = sum(word not in world.dictionary() for word in words)
    doubled = len(re.findall(r"\b([a-z]+) (?=\1\b)", answer.lower()))
    first = next(c for c in answer if c.isalpha())
    return misspelt + doubled + first.islower() + (answer.rstrip()[-1] not in ".!?")


def _plain(sentences: tuple[str, ...]) -> set[str]:
    return {s.lower().strip(".!?") for s in sentences}


@cache
def _statement() -> re.Pattern[str]:
    values = (value for facts in world.FACTS.values() for value in facts)
    return re.compile(rf"\b({_any(world.verbs())}) ({_any(values)})\b")


@cache
def _jokes() -> re.Pattern[str]:
    return re.compile(rf"\b(?:{_any(world.JOKES)})\b")


@cache
def _similes() -> re.Pattern[str]:
    return re.compile(rf"\b{world.SIMILE} (?:{_any(world.IMAGES)})\b")


def _any(phrases: Iterable[str]) -> str:
    return "|".join(sorted(set(phrases), key=len, reverse=True))
