# SPDX-License-Identifier: Apache-2.0
"""A recipe's data section end to end: several kinds, training lines repeated, validation not, samples of both."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steerlm.attributes import AttributeSchema
from steerlm.datasets.config import PrepareSettings
from steerlm.datasets.prepare import prepare_data, prepare_source
from steerlm.errors import InputError, RecordError
from steerlm.records import Conversation
from tests.datasets.raw import make_tree, read_json, write_lines

SCHEMA = AttributeSchema()
ROW = {
    "prompt": "p",
    "response": "r",
    "helpfulness": 3,
    "correctness": 2,
    "coherence": 4,
    "complexity": 1,
    "verbosity": 0,
}
TALK = '{"conversations": [{"from": "User", "value": "q"}, {"value": "a", "from": "Assistant", "label": "humor:1"}]}'
PLAIN = '{"conversations":[{"value":"q","from":"User"},{"value":"é","from":"Assistant"}],"mask":"User"}'


def section(root: Path, **keys: object) -> PrepareSettings:
    write_lines(root / "trees.jsonl", *(make_tree(i) for i in range(20)))
    write_lines(root / "own" / "train.jsonl", TALK, PLAIN)
    write_lines(root / "own" / "val.jsonl", PLAIN)
    write_lines(root / "hs" / "train.jsonl", ROW)
    write_lines(root / "hs" / "validation.jsonl", ROW)
    sources = [
        {"kind": "oasst", "source": str(root / "trees.jsonl")},
        {"kind": "conversations", "source": str(root / "own"), "repeat": 2},
        {"kind": "helpsteer", "source": str(root / "hs"), "repeat": 3},
    ]
    return PrepareSettings.model_validate({"sources": sources, **keys})


def test_sources_are_merged_in_order_and_training_lines_repeat(tmp_path: Path) -> None:
    done = prepare_data(section(tmp_path / "in"), tmp_path / "out", schema=SCHEMA)
    train = (done.conversations / "train.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    val = (done.conversations / "val.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    oasst = done.summaries["0-oasst"].written
    assert train[oasst["train.jsonl"] :][:4] == [TALK, TALK, PLAIN, PLAIN]  # as they were written
    assert len(train) == oasst["train.jsonl"] + 2 * 2 + 3
    assert val[oasst["val.jsonl"]] == PLAIN
    assert len(val) == oasst["val.jsonl"] + 1 + 1
    samples = read_json(done.regression / "train.jsonl")
    assert [s["label"][2] for s in samples[-5:]] == [1.0, 1.0, -100.0, -100.0, -100.0]
    assert read_json(done.regression / "val.jsonl")[-1]["label"][4:] == [3.0, 2.0, 4.0, 1.0, 0.0]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["conversations", "regression"]


def test_bad_lines_stop_or_are_kept_by_source(tmp_path: Path) -> None:
    settings = section(tmp_path / "in")
    write_lines(tmp_path / "in" / "own" / "train.jsonl", TALK, '{"conversations": []}')
    with pytest.raises(RecordError, match=r"own/train\.jsonl:2: conversations"):
        prepare_data(settings, tmp_path / "out", schema=SCHEMA)
    assert list((tmp_path / "out").iterdir()) == []
    skipping = settings.model_copy(update={"on_error": "skip"})
    done = prepare_data(skipping, tmp_path / "out", schema=SCHEMA)
    (reject,) = read_json(tmp_path / "out" / "1-conversations.rejects.jsonl")
    assert (reject["line"], done.summaries["1-conversations"].counts) == (2, {"rejected": 1})


def test_a_label_that_the_samples_could_not_use_is_found_in_the_source(tmp_path: Path) -> None:
    settings = section(tmp_path / "in")
    write_lines(tmp_path / "in" / "own" / "val.jsonl", PLAIN, TALK.replace("humor:1", "humor"))
    with pytest.raises(RecordError, match=r"own/val\.jsonl:2: conversations\.1\.label: .*'humor' is not in the form"):
        prepare_data(settings, tmp_path / "out", schema=SCHEMA)
    done = prepare_data(settings.model_copy(update={"on_error": "skip"}), tmp_path / "out", schema=SCHEMA)
    assert done.summaries["1-conversations"].counts["rejected"] == 1


VALUES = st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5) | st.just("<extra_id_2>")
KEYS = [
    "prompt",
    "text",
    "role",
    "labels",
    "replies",
    "message_id",
    "parent_id",
    "name",
    "value",
    "quality",
    "response",
]
KEYS += ["response_1", "response_2", "preference_strength", "split", "helpfulness", "conversations", "from", "label"]
ROLES = st.sampled_from(["prompter", "assistant", "train"])
JSON = st.recursive(
    VALUES | ROLES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=7),
)
KINDS: list[dict[str, Any]] = [
    {"kind": "oasst"},
    {"kind": "helpsteer"},
    {"kind": "helpsteer2"},
    {"kind": "helpsteer2", "preference": True},
    {"kind": "conversations"},
]


NOTHING_MADE = ("expected trees", "lines were rejected, the first: ", "nothing could be made of it: ")


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(data=st.lists(st.dictionaries(st.sampled_from(KEYS), JSON, min_size=1, max_size=9), min_size=1, max_size=4))
def test_whatever_is_in_a_source_only_input_errors_come_out(
    tmp_path_factory: pytest.TempPathFactory, kind: dict[str, Any], data: list[dict[str, Any]]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    source = write_lines(folder / "in.jsonl", *(json.dumps(row) for row in data))
    (only,) = PrepareSettings.model_validate({"sources": [{**kind, "source": str(source)}]}).sources
    try:
        prepare_source(only, folder / "out", schema=SCHEMA)
    except InputError:
        assert list((folder / "out").iterdir()) == []
    try:
        summary = prepare_source(only, folder / "out", schema=SCHEMA, on_error="skip")
    except InputError as error:
        assert any(reason in str(error) for reason in NOTHING_MADE)
    else:
        talks = [talk for name in summary.written for talk in read_json(folder / "out" / name)]
        assert talks and all(Conversation.model_validate(talk) for talk in talks)
