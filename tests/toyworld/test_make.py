# SPDX-License-Identifier: Apache-2.0
"""The world's files are complete, valid and reproducible, and held-out questions do not occur in training data."""

import json
from pathlib import Path

import pytest

from steerlm.attributes import HELPSTEER, OASST, parse_labels
from steerlm.errors import InputError
from steerlm.prompt import SYSTEM_PROMPT
from steerlm.records import Conversation, PlainText, read_records
from steerlm.toyworld.config import ToySettings
from steerlm.toyworld.make import split_questions, write_world
from steerlm.toyworld.oracle import ATTRIBUTES, score

GeneratedWorld = tuple[Path, dict[str, int]]


def conversations(folder: Path, name: str) -> list[Conversation]:
    return [record for _, record in read_records(folder / name, Conversation)]


def test_counts_match_the_files(generated: GeneratedWorld, settings: ToySettings) -> None:
    folder, counts = generated
    lines = {path.name: len(path.read_text().splitlines()) for path in folder.glob("*.jsonl")}
    assert lines == {
        "train.jsonl": settings.conversations,
        "val.jsonl": settings.validation_conversations,
        "plain_train.jsonl": settings.plain_documents,
        "plain_val.jsonl": settings.plain_validation_documents,
        "questions.jsonl": settings.questions,
    }
    assert counts["conversations"] == settings.conversations
    assert counts["questions"] == settings.questions
    assert json.loads((folder / "oracle.json").read_text()).keys() == ATTRIBUTES.keys()
    assert list(read_records(folder / "plain_train.jsonl", PlainText))


def test_shares_of_rated_and_two_exchange_conversations(generated: GeneratedWorld, settings: ToySettings) -> None:
    folder, counts = generated
    rated = exchanges = 0
    for conversation in conversations(folder, "train.jsonl"):
        assert conversation.system == SYSTEM_PROMPT
        assert (conversation.mask, conversation.type) == ("User", "VALUE_TO_TEXT")
        users, assistants = conversation.conversations[::2], conversation.conversations[1::2]
        assert all(turn.speaker == "User" and turn.label is None and "label" in turn.model_fields_set for turn in users)
        assert all(turn.speaker == "Assistant" for turn in assistants)
        assert len({turn.label is None for turn in assistants}) == 1
        assert all(("label" in turn.model_fields_set) == (turn.label is not None) for turn in assistants)
        rated += assistants[0].label is not None
        exchanges += len(assistants) == 2
        for turn in assistants:
            if turn.label is not None:
                labels = parse_labels(turn.label)
                assert tuple(labels) in (tuple(ATTRIBUTES), OASST, HELPSTEER)
                assert set(labels.values()) <= {0, 1, 2, 3, 4}
    assert counts["rated"] == rated
    assert abs(rated / settings.conversations - settings.rated_share) < 0.08
    assert 0.01 < exchanges / settings.conversations < 0.12


def test_keys_are_in_upstream_order(generated: GeneratedWorld) -> None:
    line = json.loads((generated[0] / "train.jsonl").read_text().splitlines()[0])
    assert list(line) == ["conversations", "system", "mask", "type"]
    assert list(line["conversations"][0]) == ["value", "from", "label"]


def test_held_out_questions_do_not_occur_in_training_data(generated: GeneratedWorld) -> None:
    folder, _ = generated
    held_out = [json.loads(line)["question"] for line in (folder / "questions.jsonl").read_text().splitlines()]
    validation = [c.conversations[0].value for c in conversations(folder, "val.jsonl")]
    assert len(set(held_out)) == len(held_out)
    assert not set(held_out) & set(validation)
    trained = {turn.value for c in conversations(folder, "train.jsonl") for turn in c.conversations}
    assert not trained & {*held_out, *validation}
    plain = (folder / "plain_train.jsonl").read_text()
    prefixed = [question for question in held_out + validation if f'"{question} ' in plain]
    assert not prefixed


def test_lengths_are_within_the_limits(generated: GeneratedWorld, settings: ToySettings) -> None:
    _, counts = generated
    assert counts["longest_prompt"] <= 60 <= settings.prompt_budget
    assert counts["longest_conversation"] <= settings.window


@pytest.mark.parametrize("short", [{"prompt_budget": 30}, {"window": 64}])
def test_exceeding_a_length_limit_is_an_input_error(
    tmp_path: Path, settings: ToySettings, short: dict[str, int]
) -> None:
    with pytest.raises(InputError, match="tokens"):
        write_world(tmp_path, settings.model_copy(update=short | {"conversations": 60, "plain_documents": 60}))
    assert not (tmp_path / "train.jsonl").exists()


def test_too_many_held_out_questions_are_an_input_error() -> None:
    with pytest.raises(InputError, match="at most"):
        split_questions(ToySettings(questions=5000))


def test_the_seed_determines_the_bytes(tmp_path: Path, generated: GeneratedWorld, settings: ToySettings) -> None:
    write_world(tmp_path / "again", settings)
    write_world(tmp_path / "other", settings.model_copy(update={"seed": 6}))
    files = [path.relative_to(generated[0]) for path in generated[0].rglob("*") if path.is_file()]
    assert len(files) == 8
    for file in files:
        assert (tmp_path / "again" / file).read_bytes() == (generated[0] / file).read_bytes(), file
    for name in ("train.jsonl", "questions.jsonl", "plain_train.jsonl"):
        assert (tmp_path / "other" / name).read_bytes() != (generated[0] / name).read_bytes()


def test_ratings_are_close_to_the_oracle(generated: GeneratedWorld) -> None:
    """The mean absolute difference is well below one level."""
    differences = []
    for conversation in conversations(generated[0], "train.jsonl"):
        turns = conversation.conversations
        for question, answer in zip(turns[::2], turns[1::2], strict=True):
            if answer.label:
                truth = score(question.value, answer.value)
                differences += [abs(truth[n] - v) for n, v in parse_labels(answer.label).items()]
    assert sum(differences) / len(differences) < 0.6
