# SPDX-License-Identifier: Apache-2.0
"""Ratings become a dataset: one digest for equal ratings, the latest of a person counts, bad files are named."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from steerlm.attributes import AttributeSchema
from steerlm.cli.main import call
from steerlm.datasets.check import check
from steerlm.datasets.collect import Collected, collect
from steerlm.datasets.rating_folder import RatingFolder
from steerlm.datasets.ratings import RatedConversation, RatingNote, rated_conversation
from steerlm.datasets.sources.conversations import ConversationsSource, prepare_conversations
from steerlm.datasets.sources.helpsteer2 import HelpSteer2Source, prepare_helpsteer2
from steerlm.errors import InputError, RecordError, StorageError
from steerlm.prompt import SYSTEM_PROMPT
from steerlm.records import Turn
from tests.fake_s3 import FakeS3

SCHEMA = AttributeSchema()


def note(number: int, by: str = "Anna", **more: Any) -> RatingNote:
    """A rating given in a second of its own; later ones have higher numbers."""
    at = f"2026-11-27T12:00:{number:02}.000000Z"
    usual = {"kind": "rating", "id": f"{number:032x}", "by": by, "at": at, "model": "m", "asked": {}}
    return RatingNote(**usual | more)


def rating(number: int, question: str = "q", answer: str = "a", by: str = "Anna", **labels: int) -> RatedConversation:
    labels = labels or {"quality": number % 5}
    return rated_conversation(SYSTEM_PROMPT, [Turn(value=question, speaker="User")], answer, labels, note(number, by))


def pair(number: int, first: str, second: str, strength: int, system: str = SYSTEM_PROMPT) -> list[RatedConversation]:
    turns = [Turn(value=text, speaker=who) for text, who in (("q", "User"), ("a", "Assistant"), ("r", "User"))]
    kept = note(number, kind="preference", strength=strength)
    return [rated_conversation(system, turns, answer, {}, kept) for answer in (first, second)]


def keep(place: str | Path, *records: RatedConversation | list[RatedConversation]) -> None:
    folder = RatingFolder(place)
    for record in records:
        folder.append(record if isinstance(record, list) else [record])


def made(place: str | Path, store: str | Path, share: float = 0.0) -> Collected:
    return collect(place, store, schema=SCHEMA, validation_share=share)


def lines(collected: Collected, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (collected.artifact.path / name).read_text(encoding="utf-8").split("\n")[:-1]]


def test_equal_ratings_have_one_digest_wherever_they_are_and_in_whatever_order_they_came(
    s3: FakeS3, tmp_path: Path
) -> None:
    records = [rating(n, question=f"q{n}\u2028") for n in range(9)]
    keep(tmp_path / "one", *records)
    keep("s3://bucket/ratings", *reversed(records))
    first = made(tmp_path / "one", tmp_path / "store")
    assert made(tmp_path / "one", tmp_path / "store").artifact == first.artifact
    second = made("s3://bucket/ratings", "s3://bucket/store")
    assert second.artifact.digest == first.artifact.digest and second.artifact.uri.startswith("s3://bucket/store/")
    assert [line["rating"]["id"] for line in lines(first, "train.jsonl")] == [r.rating.id for r in records]
    keep(tmp_path / "one", rating(10))
    assert made(tmp_path / "one", tmp_path / "store").artifact.digest != first.artifact.digest


def test_of_a_persons_ratings_of_one_answer_the_latest_counts(tmp_path: Path) -> None:
    keep(
        tmp_path / "r",
        rating(3, humor=3),
        rating(1, humor=1),
        rating(2, by="Bo", humor=2),
        rating(4, answer="b", humor=4),
        pair(5, "x", "y", -1),
        pair(6, "y", "x", -1),
    )
    collected = made(tmp_path / "r", tmp_path / "store")
    assert [line["conversations"][-1]["label"] for line in lines(collected, "train.jsonl")] == [
        "humor:2",
        "humor:3",
        "humor:4",
    ]
    (row,) = lines(collected, "preference/preference.jsonl")
    assert (row["response_1"], row["preference_strength"]) == ("y", -1)
    assert (collected.ratings, collected.preferences, collected.people, collected.replaced) == (3, 1, 2, 2)


def test_the_dataset_is_read_by_the_sources_of_a_recipe(tmp_path: Path) -> None:
    keep(tmp_path / "r", rating(1), pair(2, "x", "y", -2), pair(3, "v", "w", 1, system="Be kind."))
    path = made(tmp_path / "r", tmp_path / "store").artifact.path
    assert check(path / "train.jsonl", schema=SCHEMA).label_problems() == []
    summary = prepare_conversations(ConversationsSource(source=str(path)), tmp_path / "out", schema=SCHEMA)
    assert summary.written["train.jsonl"] == 1
    pairs = HelpSteer2Source(source=str(path), preference=True, split_embedded_turns=True)
    summary = prepare_helpsteer2(pairs, tmp_path / "pairs", schema=SCHEMA)
    assert summary.written["train.jsonl"] == 4
    talks = [json.loads(line) for line in (tmp_path / "pairs" / "train.jsonl").read_text().splitlines()]
    assert [turn["value"] for turn in talks[0]["conversations"]] == ["q", "a", "r", "x"]
    assert talks[0]["conversations"][-1]["label"] == "quality:-2"
    assert [talk["system"] for talk in talks] == [SYSTEM_PROMPT, SYSTEM_PROMPT, "Be kind.", "Be kind."]


def test_a_person_is_the_key_and_the_name(tmp_path: Path) -> None:
    """Two of one name with different keys are two; without a name the key alone says who; both stay in the dataset."""
    who = ({"by": "Anna"}, {"by": "Anna", "key": "team-a"}, {"by": "Anna", "key": "team-b"}, {"key": "team-b"})
    turns = [Turn(value="q", speaker="User")]
    for number, person in enumerate(who * 2):
        plain = note(number).model_dump(exclude_unset=True, exclude={"by"})
        whole = RatingNote.model_validate(plain | person)
        keep(tmp_path / "r", rated_conversation(SYSTEM_PROMPT, turns, "a", {"humor": 1}, whole))
    plain |= {"kind": "preference", "strength": 1, "id": f"{99:032x}", "key": "team-b"}
    keep(tmp_path / "r", [rated_conversation(SYSTEM_PROMPT, turns, one, {}, RatingNote(**plain)) for one in "ab"])
    collected = made(tmp_path / "r", tmp_path / "store")
    assert (collected.ratings, collected.people, collected.replaced) == (4, 4, 4)
    kept = [line["rating"] for line in lines(collected, "train.jsonl")]
    assert [{key: one[key] for key in ("by", "key") if key in one} for one in kept] == list(who)
    (row,) = lines(collected, "preference/preference.jsonl")
    assert (row["rating"]["key"], "by" in row["rating"]) == ("team-b", False)
    with pytest.raises(ValueError, match="who rated is missing"):
        RatingNote(**note(1).model_dump(exclude={"by"}))


@pytest.mark.parametrize(
    ("share", "records", "words"),
    [
        (0.0, [rating(n, question=f"q{n}") for n in range(3)], "no val.jsonl: none of the 3 rated questions"),
        (1.0, [rating(1)], "no train.jsonl: all of the 1 rated question validate"),
        (0.5, [pair(1, "x", "y", 1)], "there are preferences alone: neither train.jsonl nor val.jsonl"),
        (0.5, [rating(n, question=f"q{n}") for n in range(20)], ""),
    ],
    ids=["no validation", "no training", "no ratings", "both"],
)
def test_a_part_that_has_no_lines_is_said(
    share: float, records: list[Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(tmp_path / "r", *records)
    command = ["data", "collect", str(tmp_path / "r"), "--output", str(tmp_path / "store")]
    assert call([*command, "--validation-share", str(share)]) == 0
    said = capsys.readouterr().err
    assert words in said and said.count("note: ") == bool(words)
    names = set(made(tmp_path / "r", tmp_path / "store", share).artifact.manifest.content.files)
    assert ("train.jsonl" in names, "val.jsonl" in names) == ("train.jsonl" not in words, "val.jsonl" not in words)


def test_all_answers_to_a_question_are_on_one_side(tmp_path: Path) -> None:
    keep(tmp_path / "r", *(rating(n, question=f"q{n % 20}", answer=str(n)) for n in range(60)))
    collected = made(tmp_path / "r", tmp_path / "store", share=0.3)
    sides = [{line["conversations"][0]["value"] for line in lines(collected, f"{s}.jsonl")} for s in ("train", "val")]
    assert sides[0] and sides[1] and not sides[0] & sides[1]


GOOD = rating(1).to_json()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ":1: the file is empty"),
        ("{", ":1: "),
        (f"{GOOD}\n{GOOD}\n", ":2: a rating has 1 lines, not 2"),
        (f"{pair(1, 'x', 'y', 1)[0].to_json()}\n", ":1: a preference has 2 lines, not 1"),
        (GOOD.replace("quality:1", "qualty:1"), ":1: unknown attribute 'qualty'; did you mean 'quality'?"),
        (GOOD.replace("quality:1", "quality:7"), ":1: attribute 'quality' must be in 0..4"),
        (GOOD.replace('"value": "q"', '"value": "q<extra_id_1>"'), ":1: a text contains the marker <extra_id_1>"),
        (GOOD.replace('"at": "2026', '"at": "26'), ":1: rating.at"),
        (GOOD.replace('"rating": {', '"other": {'), ":1: rating"),
    ],
)
def test_a_file_that_is_no_rating_is_named(text: str, words: str, tmp_path: Path) -> None:
    keep(tmp_path / "r", rating(2))
    bad = tmp_path / "r" / "2026-11-27" / "bad.jsonl"
    bad.write_text(text)
    with pytest.raises(RecordError) as refused:
        made(tmp_path / "r", tmp_path / "store")
    assert f"{bad}{words}" in str(refused.value)
    assert not (tmp_path / "store").exists()


def test_other_files_and_no_files_are_refused(tmp_path: Path) -> None:
    keep(tmp_path / "r", rating(2))
    (tmp_path / "r" / "notes.txt").write_text("x")
    with pytest.raises(InputError, match=r"r/notes\.txt: not a rating"):
        made(tmp_path / "r", tmp_path / "store")
    RatingFolder(tmp_path / "empty")
    with pytest.raises(InputError, match="no ratings are stored there"):
        made(tmp_path / "empty", tmp_path / "store")


def test_servers_append_to_one_place_at_a_time_and_nothing_is_overwritten(s3: FakeS3) -> None:
    folders = [RatingFolder("s3://bucket/ratings") for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        uris = list(pool.map(lambda n: folders[n % 4].append([rating(n, answer=str(n))]), range(24)))
    assert len(set(uris)) == 24 == len([key for key in s3.objects if key.startswith("bucket/ratings/")])
    with pytest.raises(StorageError, match="exists already"):
        folders[0].append([rating(3, answer="another")])
    assert made("s3://bucket/ratings", "s3://bucket/store").ratings == 24


def test_the_command_prints_the_digest_and_fails_with_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(tmp_path / "r", rating(1), pair(2, "x", "y", 0, system="Be kind."))
    command = ["data", "collect", str(tmp_path / "r"), "--output", str(tmp_path / "store"), "--validation-share", "0"]
    assert call(command) == 0
    out, err = capsys.readouterr()
    collected = made(tmp_path / "r", tmp_path / "store")
    assert "1 ratings and 1 preferences of 1 people; replaced by a later one 0" in out
    assert f"{collected.artifact.uri}/ratings/train.jsonl" in out and f"digest {collected.artifact.digest}" in out
    assert "note: no val.jsonl: none of the 1 rated question is in the share that validates (0)" in err
    assert call(["store", "verify", str(tmp_path / "store")]) == 0
    (tmp_path / "own.yaml").write_text("names: [warm]\nhigh: 9\n")
    assert call([*command, "--attributes", str(tmp_path / "own.yaml")]) == 2
    assert "unknown attribute 'quality'" in capsys.readouterr().err
