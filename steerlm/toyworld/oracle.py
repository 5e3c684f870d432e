# SPDX-License-Identifier: Apache-2.0
"""Compute the true values of the nine attributes of an answer by counting words.

The scores are deterministic. Each attribute is measured by separate evidence, so each of the 5^9 vectors has answers.
Any text can be scored: words outside the vocabulary count as misspelled, sentences without a statement as filler.
"""

import re
from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

from steerlm.toyworld import language as world

ATTRIBUTES: dict[str, str] = {
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
"""How each attribute is scored; written to `oracle.json`."""


class Statement(NamedTuple):
    """A statement found in an answer, true or false; `entity` None: it names no entity."""

    entity: str | None
    relation: str
    register: int | None
    """Register of its adjective; None without one."""
    value: str
    position: int | None
    """Position (0..3) that the word introducing it fits; None without such a word."""
    end: int
    """Offset of its end in the text."""

    @property
    def true(self) -> bool:
        """Whether the value is the entity's true one; False without an entity."""
        return self.entity is not None and world.truth(self.entity, self.relation) == self.value


def score(question: str, answer: str) -> dict[str, float]:
    """Return the nine attributes of an answer, in 0..4; all but correctness, coherence and complexity are integers."""
    words = re.findall(r"[a-z]+", answer.lower())
    if not words:
        return dict.fromkeys(ATTRIBUTES, 0.0)
    lower = answer.lower()
    stated = statements(answer, world.parse_question(question)[0])
    sentences = [s for s in re.split(r"[.!?]", lower) if s.strip()]
    registers = [s.register for s in stated if s.register is not None]

    def count(phrases: tuple[str, ...]) -> int:
        return len(_phrases(phrases).findall(lower))

    def share(hits: int, total: int) -> float:
        return 4 * hits / total if total else 0.0

    empty = sum(not statements(s, None) for s in sentences)
    return {
        "quality": max(0.0, 4.0 - _typos(answer, words)),
        "toxicity": min(4.0, count(world.INSULTS)),
        "humor": min(4.0, count(world.JOKES)),
        "creativity": min(4.0, len(_similes().findall(lower))),
        "helpfulness": min(4.0, count(world.HINTS)),
        "correctness": share(sum(s.true for s in stated), len(stated)),
        "coherence": share(sum(s.position == i for i, s in enumerate(stated)), max(4, len(stated))),
        "complexity": sum(registers) / len(registers) if registers else 0.0,
        "verbosity": min(4.0, count(world.FILLERS) + empty),
    }


def statements(text: str, entity: str | None) -> list[Statement]:
    """Return the statements of a text, in order.

    A statement is about the entity named last, or about `entity` before any is named.
    """
    positions = {word: i for i, words in enumerate(world.LINKS) for word in words}
    result, end, text = [], 0, text.lower()
    for match in _statement().finditer(text):
        position = None
        for word in re.findall(r"[a-z]+", text[end : match.start()]):
            entity = word if word in world.FACTS else entity
            position = positions.get(word, position)
        register = world.registers().get(match[2])
        result.append(Statement(entity, world.verbs()[match[1]], register, match[3], position, match.end()))
        end = match.end()
    return result


def _typos(answer: str, words: list[str]) -> int:
    misspelled = sum(word not in world.dictionary() for word in words)
    doubled = len(re.findall(r"\b([a-z]+) (?=\1\b)", answer.lower()))
    first = next(c for c in answer if c.isalpha())
    return misspelled + doubled + first.islower() + (answer.rstrip()[-1] not in ".!?")


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
