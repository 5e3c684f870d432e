# SPDX-License-Identifier: Apache-2.0
"""The closed world and the small language it is spoken of: facts, words, questions. Knows nothing of attributes' noise.

Ten animals have one true value for each of five relations, and one popular myth. A statement is a verb, an adjective
and a value; the verb says the relation, the adjective the register it is spoken in. Everything here is a constant
table or a pure function of one, so that the oracle needs nothing but the text.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

RELATIONS = ("home", "food", "coat", "fear", "craft")

FACTS: dict[str, tuple[str, ...]] = {
    "fox": ("caves", "plums", "silver", "thunder", "baskets"),
    "owl": ("forests", "honey", "amber", "mirrors", "kites"),
    "bear": ("islands", "roots", "crimson", "bells", "pots"),
    "hare": ("meadows", "nuts", "indigo", "fog", "ropes"),
    "wolf": ("cliffs", "beans", "purple", "feathers", "drums"),
    "crow": ("forests", "roots", "purple", "fog", "baskets"),
    "goat": ("islands", "beans", "silver", "mirrors", "ropes"),
    "seal": ("caves", "nuts", "amber", "bells", "drums"),
    "mole": ("cliffs", "honey", "indigo", "thunder", "pots"),
    "swan": ("meadows", "plums", "crimson", "feathers", "kites"),
}
"""Entity -> its true value for each relation, in the order of `RELATIONS`."""

VERBS = {"home": "lives in", "food": "eats", "coat": "wears", "fear": "fears", "craft": "makes"}
REGISTERS: tuple[tuple[str, ...], ...] = (
    ("nice", "good"),
    ("lovely", "pretty"),
    ("splendid", "superb"),
    ("magnificent", "exquisite"),
    ("resplendent", "quintessential"),
)
"""Adjectives from a child's to a scholar's; all they say is who speaks."""
NONSENSE = "custard"
"""A value that is true of nobody."""

OPENERS = ("Well", "Look")
LINKS: tuple[tuple[str, ...], ...] = (
    ("first", "initially"),
    ("then", "second"),
    ("next", "third"),
    ("last", "finally"),
)
"""Place -> the words that lead in the statement of that place."""
STRAYS = ("anyway", "umm")
"""Words that lead nowhere; a statement after one is a jump of thought."""
INSULTS = ("fool", "moron")
JOKES = ("haha", "teehee")
IMAGES = ("velvet", "moonlight", "poetry")
SIMILE = "like"
HINTS = ("try it", "take note")
FILLERS = ("you know", "so to speak")

# Each wording has a word no other relation's wording has: the oracle knows by it what was asked.
WORDINGS: dict[str, tuple[str, ...]] = {
    "home": ("Where does the {} live?", "In what place would I find the {}?",
             "Name the home of the {}.", "Where is the {} found?"),
    "food": ("What does the {} eat?", "What food does the {} want?",
             "Name a meal of the {}.", "What can I feed the {}?"),
    "coat": ("What colour is the {}?", "What does the coat of the {} look like?",
             "Name the fur of the {}.", "What hue has the {}?"),
    "fear": ("What does the {} fear?", "What would scare the {}?",
             "Name the dread of the {}.", "What is the {} afraid of?"),
    "craft": ("What does the {} make?", "What is the work of the {}?",
              "Name the trade of the {}.", "What can the {} build?"),
}  # fmt: skip
ASKING_WORDS: dict[str, frozenset[str]] = {
    "home": frozenset({"live", "place", "home", "found"}),
    "food": frozenset({"eat", "food", "meal", "feed"}),
    "coat": frozenset({"colour", "coat", "fur", "hue"}),
    "fear": frozenset({"fear", "scare", "dread", "afraid"}),
    "craft": frozenset({"make", "work", "trade", "build"}),
}
LEADS = ("", "Hello! ", "Please help. ", "I wonder. ", "Quick question. ", "Hi there. ", "Tell me. ", "One more. ")


@cache
def verbs() -> dict[str, str]:
    """Every verb and its relation."""
    return {verb: relation for relation, verb in VERBS.items()}


@cache
def registers() -> dict[str, int]:
    """Every adjective and its register."""
    return {word: level for level, words in enumerate(REGISTERS) for word in words}


@cache
def dictionary() -> frozenset[str]:
    """Every word an answer may have, in small letters; any other is misspelt."""
    phrases = ["the", "it", SIMILE, *FACTS, *verbs(), *registers()]
    said = (OPENERS, STRAYS, INSULTS, JOKES, IMAGES, HINTS, FILLERS, (NONSENSE,))
    for table in (*FACTS.values(), *LINKS, *said):
        phrases += table
    return frozenset(re.findall(r"[a-z]+", " ".join(phrases).lower()))


def values(relation: str) -> tuple[str, ...]:
    """The values of a relation that are true of some entity, in the order of `FACTS`."""
    at = RELATIONS.index(relation)
    return tuple(dict.fromkeys(facts[at] for facts in FACTS.values()))


def truth(entity: str, relation: str) -> str:
    return FACTS[entity][RELATIONS.index(relation)]


def myth(entity: str, relation: str) -> str:
    """What people wrongly believe of an entity: the value that follows the true one in the relation's list."""
    known = values(relation)
    return known[(known.index(truth(entity, relation)) + 1) % len(known)]


class Question(NamedTuple):
    """A question about one relation of one entity; `wording` and `lead` index the tables."""

    entity: str
    relation: str
    wording: int
    lead: int

    @property
    def text(self) -> str:
        return LEADS[self.lead] + WORDINGS[self.relation][self.wording].format(self.entity)


def asked(question: str) -> tuple[str | None, str | None]:
    """The entity and the relation a question is about; None for what it does not say."""
    words = re.findall(r"[a-z]+", question.lower())
    entity = next((w for w in words if w in FACTS), None)
    relation = next((r for w in words for r, known in ASKING_WORDS.items() if w in known), None)
    return entity, relation


def questions() -> Iterator[Question]:
    """Every question that can be asked."""
    for entity in FACTS:
        for relation in RELATIONS:
            for wording in range(len(WORDINGS[relation])):
                for lead in range(len(LEADS)):
                    yield Question(entity, relation, wording, lead)
