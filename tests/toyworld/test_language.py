# SPDX-License-Identifier: Apache-2.0
"""The tables say one thing each: no word means two things, no question asks two."""

from collections import Counter

from steerlm.toyworld import language as world


def test_every_fact_has_a_truth_and_another_myth() -> None:
    for entity, facts in world.FACTS.items():
        assert len(facts) == len(world.RELATIONS)
        for relation in world.RELATIONS:
            assert world.myth(entity, relation) != world.truth(entity, relation)
            assert world.myth(entity, relation) in world.values(relation)


def test_values_belong_to_one_relation() -> None:
    counts = Counter(value for relation in world.RELATIONS for value in world.values(relation))
    assert set(counts.values()) == {1}


def test_five_registers_without_a_shared_adjective() -> None:
    assert len(world.REGISTERS) == 5
    assert len(world.registers()) == sum(len(words) for words in world.REGISTERS)


def test_nonsense_is_true_of_nobody() -> None:
    assert world.NONSENSE not in {value for facts in world.FACTS.values() for value in facts}


def test_evidence_words_are_of_one_kind() -> None:
    kinds = [world.STRAYS, world.INSULTS, world.JOKES, world.IMAGES, tuple(world.FACTS), sum(world.LINKS, ())]
    kinds += [world.HINTS, world.FILLERS, (world.NONSENSE,), tuple(world.registers())]
    counts = Counter(word for kind in kinds for word in kind)
    assert set(counts.values()) == {1}


def test_questions_are_distinct_and_understood() -> None:
    known = list(world.questions())
    assert len({question.text for question in known}) == len(known) >= 1000
    assert all(world.asked(question.text) == (question.entity, question.relation) for question in known)


def test_unknown_question() -> None:
    assert world.asked("Who wrote this?") == (None, None)
