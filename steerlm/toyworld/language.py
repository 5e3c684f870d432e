# SPDX-License-Identifier: Apache-2.0
"""The facts, vocabulary and questions of the synthetic world.

Each of ten animals has one true value and one popular myth for each of five relations. A statement is a verb, which
determines the relation, an adjective, which determines the register, and a value. Everything here is a constant table
or a pure function of one, so the oracle can score an answer from its text alone.
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
"""Each entity's true values, in the order of `RELATIONS`."""

VERBS = {"home": "lives in", "food": "eats", "coat": "wears", "fear": "fears", "craft": "makes"}
REGISTERS: tuple[tuple[str, ...], ...] = (
    ("nice", "good"),
    ("lovely", "pretty"),
    ("splendid", "superb"),
    ("magnificent", "exquisite"),
    ("resplendent", "quintessential"),
)
"""Adjectives by register, from simple to scholarly; they have no other meaning."""
NONSENSE = "custard"
"""A value that is false for every entity and relation."""

OPENERS = ("Well", "Look")
LINKS: tuple[tuple[str, ...], ...] = (
    ("first", "initially"),
    ("then", "second"),
    ("next", "third"),
    ("last", "finally"),
)
"""Words that introduce a statement, by the statement's position."""
STRAYS = ("anyway", "umm")
"""Words that introduce a statement but fit no position; they make an answer incoherent."""
INSULTS = ("fool", "moron")
JOKES = ("haha", "teehee")
IMAGES = ("velvet", "moonlight", "poetry")
SIMILE = "like"
HINTS = ("try it", "take note")
FILLERS = ("you know", "so to speak")

# Each wording has a word that no other relation's wordings have; the oracle identifies the relation by it.
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
QUESTION_WORDS: dict[str, frozenset[str]] = {
    "home": frozenset({"live", "place", "home", "found"}),
    "food": frozenset({"eat", "food", "meal", "feed"}),
    "coat": frozenset({"colour", "coat", "fur", "hue"}),
    "fear": frozenset({"fear", "scare", "dread", "afraid"}),
    "craft": frozenset({"make", "work", "trade", "build"}),
}
LEADS = ("", "Hello! ", "Please help. ", "I wonder. ", "Quick question. ", "Hi there. ", "Tell me. ", "One more. ")


@cache
def verbs() -> dict[str, str]:
    """Return the relation of every verb."""
    return {verb: relation for relation, verb in VERBS.items()}


@cache
def registers() -> dict[str, int]:
    """Return the register of every adjective."""
    return {word: level for level, words in enumerate(REGISTERS) for word in words}


@cache
def dictionary() -> frozenset[str]:
    """Return all words of correct answers in lower case; any other word counts as misspelled."""
    phrases = ["the", "it", SIMILE, *FACTS, *verbs(), *registers()]
    tables = (OPENERS, STRAYS, INSULTS, JOKES, IMAGES, HINTS, FILLERS, (NONSENSE,))
    for table in (*FACTS.values(), *LINKS, *tables):
        phrases += table
    return frozenset(re.findall(r"[a-z]+", " ".join(phrases).lower()))


def values(relation: str) -> tuple[str, ...]:
    """Return the values of a relation that are true for some entity, in the order of `FACTS`."""
    column = RELATIONS.index(relation)
    return tuple(dict.fromkeys(facts[column] for facts in FACTS.values()))


def truth(entity: str, relation: str) -> str:
    """Return the true value of a relation of an entity."""
    return FACTS[entity][RELATIONS.index(relation)]


def myth(entity: str, relation: str) -> str:
    """Return the popular false value: the one after the true value in `values(relation)`."""
    options = values(relation)
    return options[(options.index(truth(entity, relation)) + 1) % len(options)]


class Question(NamedTuple):
    """A question about one relation of one entity; `wording` and `lead` are indices into `WORDINGS` and `LEADS`."""

    entity: str
    relation: str
    wording: int
    lead: int

    @property
    def text(self) -> str:
        """The question as a sentence, after its lead."""
        return LEADS[self.lead] + WORDINGS[self.relation][self.wording].format(self.entity)


def parse_question(question: str) -> tuple[str | None, str | None]:
    """Return the entity and the relation that a question is about; None for one it does not name."""
    words = re.findall(r"[a-z]+", question.lower())
    entity = next((word for word in words if word in FACTS), None)
    relation = next((name for word in words for name, keys in QUESTION_WORDS.items() if word in keys), None)
    return entity, relation


def questions() -> Iterator[Question]:
    """Yield all questions about the world."""
    for entity in FACTS:
        for relation in RELATIONS:
            for wording in range(len(WORDINGS[relation])):
                for lead in range(len(LEADS)):
                    yield Question(entity, relation, wording, lead)
