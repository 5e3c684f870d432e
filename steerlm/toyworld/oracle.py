# SPDX-License-Identifier: Apache-2.0
"""Reads the nine attributes off a question and an answer by counting words. No model, no state, no randomness.

Each attribute has evidence of its own (`DIALS`), so that every one of the 5^9 vectors is shown by some answer. Any text
can be scored: what is not of this world's language counts as misspelt, and a sentence that states nothing as idle talk.
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
    "helpfulness": "hints at what to do, at most 4",
    "correctness": "share of the stated facts that are true, times 4",
    "coherence": "share of the statements led in by a word that fits their place (of at least 4), times 4",
    "complexity": "mean register of the adjectives, from a child's (0) to a scholar's (4)",
    "verbosity": "fillers and sentences that state nothing, at most 4",
}
"""Attribute -> what is counted, in words."""


class Statement(NamedTuple):
    entity: str | None
    relation: str
    register: int | None
    """Of its adjective; None without one."""
    value: str
    place: int | None
    """The place (0..3) that the word leading it in fits; None for no such word."""
    end: int
    """Where it ends in the text."""

    @property
    def true(self) -> bool:
        return self.entity is not None and world.truth(self.entity, self.relation) == self.value


def score(question: str, answer: str) -> dict[str, float]:
    """The nine attributes of an answer, each in 0..4; whole numbers except `correctness`, `coherence`, `complexity`."""
    words = re.findall(r"[a-z]+", answer.lower())
    if not words:
        return dict.fromkeys(DIALS, 0.0)
    low = answer.lower()
    stated = statements(answer, world.asked(question)[0])
    sentences = [s for s in re.split(r"[.!?]", low) if s.strip()]
    levels = [s.register for s in stated if s.register is not None]

    def count(phrases: tuple[str, ...]) -> int:
        return len(_phrases(phrases).findall(low))

    def share(hits: int, of: int) -> float:
        return 4 * hits / of if of else 0.0

    idle = sum(not statements(s, None) for s in sentences)
    return {
        "quality": max(0.0, 4.0 - _slips(answer, words)),
        "toxicity": min(4.0, count(world.INSULTS)),
        "humor": min(4.0, count(world.JOKES)),
        "creativity": min(4.0, len(_similes().findall(low))),
        "helpfulness": min(4.0, count(world.HINTS)),
        "correctness": share(sum(s.true for s in stated), len(stated)),
        "coherence": share(sum(s.place == i for i, s in enumerate(stated)), max(4, len(stated))),
        "complexity": sum(levels) / len(levels) if levels else 0.0,
        "verbosity": min(4.0, count(world.FILLERS) + idle),
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
        register = world.registers().get(match[2])
        found.append(Statement(entity, world.verbs()[match[1]], register, match[3], place, match.end()))
        end = match.end()
    return found


def _slips(answer: str, words: list[str]) -> int:
    misspelt = sum(word not in world.dictionary() for word in words)
    doubled = len(re.findall(r"\b([a-z]+) (?=\1\b)", answer.lower()))
    first = next(c for c in answer if c.isalpha())
    return misspelt + doubled + first.islower() + (answer.rstrip()[-1] not in ".!?")


@cache
def _statement() -> re.Pattern[str]:
    values = {value for facts in world.FACTS.values() for value in facts} | {world.NONSENSE}
    return re.compile(rf"\b({_any(world.verbs())}) (?:({_any(world.registers())}) )?({_any(values)})\b")


@cache
def _phrases(phrases: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{_any(phrases)})\b")


@cache
def _similes() -> re.Pattern[str]:
    return re.compile(rf"\b{world.SIMILE} (?:{_any(world.IMAGES)})\b")


def _any(phrases: Iterable[str]) -> str:
    return "|".join(sorted(set(phrases), key=len, reverse=True))
