# SPDX-License-Identifier: Apache-2.0
"""The vocabulary tables are unambiguous: every word has one meaning and every question one relation."""

from collections import Counter

from steerlm.toyworld import language as world


def test_every_myth_differs_from_the_true_value() -> None:
    for entity, facts in world.FACTS.items():
        assert len(facts) == len(world.RELATIONS)
        for relation in world.RELATIONS:
            assert world.myth(entity, relation) != world.truth(entity, relation)
            assert world.myth(entity, relation) in world.values(relation)


def test_every_value_belongs_to_one_relation() -> None:
    counts = Counter(value for relation in world.RELATIONS for value in world.values(relation))
    assert set(counts.values()) == {1}


def test_registers_share_no_adjective() -> None:
    assert len(world.REGISTERS) == 5
    assert len(world.registers()) == sum(len(words) for words in world.REGISTERS)


def test_nonsense_is_never_true() -> None:
    assert world.NONSENSE not in {value for facts in world.FACTS.values() for value in facts}


def test_evidence_words_have_one_kind() -> None:
    kinds = [world.STRAYS, world.INSULTS, world.JOKES, world.IMAGES, tuple(world.FACTS), sum(world.LINKS, ())]
    kinds += [world.HINTS, world.FILLERS, (world.NONSENSE,), tuple(world.registers())]
    counts = Counter(word for kind in kinds for word in kind)
    assert set(counts.values()) == {1}


def test_questions_are_distinct_and_parsed_correctly() -> None:
    known = list(world.questions())
    assert len({question.text for question in known}) == len(known) >= 1000
    assert all(world.parse_question(question.text) == (question.entity, question.relation) for question in known)


def test_questions_outside_the_world_have_no_entity_or_relation() -> None:
    assert world.parse_question("Who wrote this?") == (None, None)
