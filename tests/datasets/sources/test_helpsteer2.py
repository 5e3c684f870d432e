# SPDX-License-Identifier: Apache-2.0
"""HelpSteer2: the golden file, one attribute, preference pairs, embedded turns."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerlm.attributes import AttributeSchema
from steerlm.datasets.config import build
from steerlm.datasets.regression import write_regression
from steerlm.datasets.sources.helpsteer2 import HelpSteer2Source, prepare_helpsteer2, split_turns
from steerlm.errors import InputError, RecordError
from steerlm.prompt import render, render_readout, text_of
from steerlm.records import Conversation, Turn
from tests.datasets.raw import read_json, write_lines

SCHEMA = AttributeSchema()
ROW = {"prompt": "p", "response": "r", "helpfulness": 3, "correctness": 2, "coherence": 4, "complexity": 1}
ROW = {**ROW, "verbosity": 0}
PAIR = {"prompt": "p", "response_1": "first", "response_2": "second", "preference_strength": -2, "split": "train"}


def test_the_golden_file(shared_data: Path, tmp_path: Path) -> None:
    source = HelpSteer2Source(source=str(shared_data / "helpsteer2" / "raw.jsonl"))
    prepare_helpsteer2(source, tmp_path, schema=SCHEMA)
    write_regression(tmp_path / "train.jsonl", tmp_path / "reg.jsonl", schema=SCHEMA)
    golden = shared_data / "helpsteer2" / "regression_golden.jsonl"
    assert (tmp_path / "reg.jsonl").read_bytes() == golden.read_bytes()


def test_only_helpfulness(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "train.jsonl", ROW)
    settings = HelpSteer2Source(source=str(source), only_helpfulness=True)
    prepare_helpsteer2(settings, tmp_path / "out", schema=SCHEMA)
    (talk,) = read_json(tmp_path / "out" / "train.jsonl")
    assert talk["conversations"][1]["label"] == "helpfulness:3"
    with pytest.raises(InputError, match="helpfulness is not an attribute"):
        prepare_helpsteer2(settings, tmp_path / "out", schema=AttributeSchema(names=("style",)))


def test_every_column_that_is_an_attribute_labels(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "train.jsonl", {**ROW, "quality": 1, "other": "x"})
    prepare_helpsteer2(HelpSteer2Source(source=str(source)), tmp_path / "out", schema=SCHEMA)
    label = "quality:1,helpfulness:3,correctness:2,coherence:4,complexity:1,verbosity:0"
    assert read_json(tmp_path / "out" / "train.jsonl")[0]["conversations"][1]["label"] == label
    with pytest.raises(RecordError, match="no column is an attribute"):
        schema = AttributeSchema(names=("style",))
        prepare_helpsteer2(HelpSteer2Source(source=str(source)), tmp_path / "out", schema=schema)


@pytest.mark.parametrize("place", ["preference/preference.jsonl.gz", "pairs.jsonl"])
def test_preference_pairs_are_two_lines_and_the_strength_is_in_the_first_slot(tmp_path: Path, place: str) -> None:
    rows = [PAIR, {**PAIR, "preference_strength": 0, "split": "validation"}, {**PAIR, "preference_strength": 3}]
    write_lines(tmp_path / "in" / place, *rows)
    if place.startswith("preference/"):
        write_lines(tmp_path / "in" / "train.jsonl", ROW)
    settings = HelpSteer2Source(source=str(tmp_path / "in"), preference=True)
    prepare_helpsteer2(settings, tmp_path / "out", schema=SCHEMA)
    found = {
        split: [(t["conversations"][1]["value"], t["conversations"][1]["label"]) for t in read_json(path)]
        for split in ("train", "val")
        if (path := tmp_path / "out" / f"{split}.jsonl")
    }
    assert found == {
        "train": [("first", "quality:-2"), ("second", "quality:-2"), ("first", "quality:3"), ("second", "quality:3")],
        "val": [("first", "quality:0"), ("second", "quality:0")],
    }
    write_regression(tmp_path / "out" / "train.jsonl", tmp_path / "reg.jsonl", schema=SCHEMA)
    samples = read_json(tmp_path / "reg.jsonl")
    assert [s["label"] for s in samples] == [[v, *[-100.0] * 8] for v in (-2.0, -2.0, 3.0, 3.0)]
    assert ["first" in s["text"] for s in samples] == [True, False, True, False]


def test_a_bad_pair_leaves_neither_line(tmp_path: Path) -> None:
    bad = [{**PAIR, "response_2": "<extra_id_2>"}, {**PAIR, "preference_strength": 4}, {**PAIR, "split": None}]
    source = write_lines(tmp_path / "pairs.jsonl", PAIR, *bad)
    settings = HelpSteer2Source(source=str(source), preference=True)
    with pytest.raises(RecordError, match=r"pairs\.jsonl:2: turn 1 contains"):
        prepare_helpsteer2(settings, tmp_path / "out", schema=SCHEMA)
    summary = prepare_helpsteer2(settings, tmp_path / "out", schema=SCHEMA, on_error="skip")
    assert (summary.written["train.jsonl"], summary.counts["rejected"]) == (2, 3)
    reasons = [reject["reason"] for reject in read_json(tmp_path / "out" / "helpsteer2.rejects.jsonl")]
    assert "outside -3..3" in reasons[1]
    assert reasons[2].startswith("split: ")


def test_preference_and_only_helpfulness_exclude_each_other() -> None:
    with pytest.raises(InputError, match="every label would be empty"):
        build(HelpSteer2Source, preference=True, only_helpfulness=True)
    with pytest.raises(InputError, match="separate preference pairs"):
        build(HelpSteer2Source, preference=True, repeat=2)


EMBEDDED = "one\n<extra_id_1>Assistant\ntwo\n\nlines\n<extra_id_1>User\nthree"


def test_embedded_turns_stay_in_the_text_or_become_turns(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "train.jsonl", {**ROW, "prompt": EMBEDDED})
    found = []
    for split in (False, True):
        settings = HelpSteer2Source(source=str(source), split_embedded_turns=split)
        prepare_helpsteer2(settings, tmp_path / "out", schema=SCHEMA)
        (record,) = read_json(tmp_path / "out" / "train.jsonl")
        talk = Conversation.model_validate(record)
        found.append((record["conversations"][:-1], render_readout(talk, len(talk.conversations) - 1)))
        assert [s.text for s in render(talk) if s.learned] == ["r\n", "<extra_id_1>"]
    assert found[0][0] == [{"value": EMBEDDED, "from": "User", "label": None}]
    assert found[1][0] == [
        {"value": "one", "from": "User", "label": None},
        {"value": "two\n\nlines", "from": "Assistant", "learned": False},
        {"value": "three", "from": "User", "label": None},
    ]
    assert found[0][1] == found[1][1]


@given(st.lists(st.sampled_from(["a", "\n", "<extra_id_1>", "User", "Assistant", "\n<extra_id_1>User\n", "é"])))
def test_split_turns_render_the_same_text(parts: list[str]) -> None:
    prompt = "".join(parts)
    whole = Conversation(conversations=[Turn(value=prompt, speaker="User", label=None)])
    split = Conversation(conversations=split_turns(prompt))
    assert text_of(render(whole)).removesuffix("<extra_id_1>") == text_of(render(split)).removesuffix("<extra_id_1>")
