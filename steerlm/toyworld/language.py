"""The closed world and the small language it is spoken of: facts, words, questions. Knows nothing of attributes' noise.

Ten animals have one true value for each of five relations, and one popular myth. A statement is a verb and a value;
the verb says the relation and the register it is spoken in. Everything here is a constant table or a pure function of
one, so that the oracle needs nothing but the text.
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

# Five registers a relation, from a child's words to a scholar's; the words of one register mean the same.
VERBS: dict[str, tuple[tuple[str, ...], ...]] = {
    "home": (("sits in", "hides in"), ("lives in", "stays in"), ("dwells in", "settles in"),
             ("resides in", "inhabits"), ("sojourns amid", "domiciles amid")),
    "food": (("munches", "gobbles"), ("eats", "chews"), ("devours", "relishes"),
             ("consumes", "ingests"), ("masticates", "imbibes")),
    "coat": (("has", "got"), ("wears", "shows"), ("sports", "displays"),
             ("exhibits", "presents"), ("manifests", "evinces")),
    "fear": (("hates", "runs from"), ("fears", "avoids"), ("dreads", "shuns"),
             ("abhors", "eschews"), ("abominates", "execrates")),
    "craft": (("makes", "cobbles"), ("builds", "shapes"), ("crafts", "produces"),
              ("constructs", "assembles"), ("fabricates", "confects")),
}  # fmt: skip

OPENERS = ("Well", "Look", "Alright", "Now")
LINKS: tuple[tuple[str, ...], ...] = (
    ("first", "initially"),
    ("then", "second"),
    ("next", "third"),
    ("last", "finally"),
)
"""Place -> the words that lead in the statement of that place."""
STRAYS = ("anyway", "whatever", "tuesday", "umm", "bananas")
"""Words that lead nowhere; a statement after one is a jump of thought."""
INSULTS = ("fool", "clown", "dunce", "idiot", "moron", "cretin")
JOKES = ("haha", "teehee", "hoho", "lol", "just kidding")
IMAGES = ("velvet", "moonlight", "clockwork", "poetry", "wildfire", "silk", "starlight", "rain")
SIMILE = "like"

PADDING = ("So they say.", "Such is life.", "As I said.", "That is that.", "It goes on.", "What of it.")
TIPS = ("Look at dawn.", "Try the reed path.", "Bring a lamp.")
SOURCES = ("Books agree.", "My teacher knew.", "Old maps show it.")
OFFERS = ("Ask me more.", "Shall I go on?", "I can explain.")

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


class Verb(NamedTuple):
    relation: str
    register: int


@cache
def verbs() -> dict[str, Verb]:
    """Every verb and what it says; no verb is in two places."""
    return {v: Verb(r, level) for r, levels in VERBS.items() for level, words in enumerate(levels) for v in words}


@cache
def dictionary() -> frozenset[str]:
    """Every word an answer may have, in small letters; any other is misspelt."""
    phrases = ["the", "it", SIMILE, *FACTS, *verbs()]
    said = (OPENERS, STRAYS, INSULTS, JOKES, IMAGES, PADDING, TIPS, SOURCES, OFFERS)
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
