# SPDX-License-Identifier: Apache-2.0
"""Samples against the specification; whatever is in a line, only RecordError comes out."""

import json
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from steerlm.attributes import MASKED, AttributeSchema
from steerlm.cli.main import call
from steerlm.datasets.regression import samples, write_regression
from steerlm.errors import InputError, RecordError
from steerlm.prompt import render, text_of
from steerlm.records import Conversation, RegressionSample
from tests.datasets.raw import read_json, write_lines

SCHEMA = AttributeSchema()
HEAD = (
    "<extra_id_0>System\nA chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions.\n"
)
TALK: dict[str, Any] = {
    "conversations": [
        {"value": "What is ice?", "from": "User", "label": None},
        {"value": "Frozen water.", "from": "Assistant", "label": "quality:3,toxicity:0,humor:0,creativity:1"},
        {"value": "And snow?", "from": "User", "label": None},
        {"value": "No idea.", "from": "Assistant"},
        {"value": "Try.", "from": "User", "label": None},
        {"value": "Eiskristalle: ❄", "from": "Assistant", "label": "verbosity:-0.5,quality:1e0"},
    ],
    "system": "Be kind.",
    "mask": "User",
    "type": "VALUE_TO_TEXT",
}


def talk_with(label: str | None, value: str = "x") -> dict[str, Any]:
    turns = [{"value": "q", "from": "User"}, {"value": value, "from": "Assistant", "label": label}]
    return {"conversations": turns, "system": "", "mask": "User"}


def test_one_sample_per_labeled_turn_with_growing_text(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "a.jsonl", TALK)
    summary = write_regression(source, tmp_path / "out.jsonl", schema=SCHEMA)
    first = HEAD + "<extra_id_1>User\nWhat is ice?\n<extra_id_1>Assistant\nFrozen water.\n"
    second = first + "<extra_id_1>User\nAnd snow?\n<extra_id_1>Assistant\nNo idea.\n<extra_id_1>User\nTry.\n"
    second += "<extra_id_1>Assistant\nEiskristalle: ❄\n"
    expected = [
        {"text": first + "<extra_id_2>", "label": [3.0, 0.0, 0.0, 1.0, *[MASKED] * 5]},
        {"text": second + "<extra_id_2>", "label": [1.0, *[MASKED] * 7, -0.5]},
    ]
    assert (tmp_path / "out.jsonl").read_text(encoding="utf-8") == "".join(
        json.dumps(sample, ensure_ascii=False) + "\n" for sample in expected
    )
    assert summary.written == {"out.jsonl": 2}


def test_the_records_own_system_prompt_on_demand(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "a.jsonl", TALK)
    write_regression(source, tmp_path / "out.jsonl", schema=SCHEMA, use_system=True)
    assert read_json(tmp_path / "out.jsonl")[0]["text"].startswith("<extra_id_0>System\nBe kind.\n<extra_id_1>User\n")


def test_names_outside_the_schema_are_counted_and_turns_that_name_no_other_passed_over(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "a.jsonl", TALK, talk_with("qualty:4"), talk_with(""), talk_with(None))
    schema = AttributeSchema(names=("creativity", "quality"))
    summary = write_regression(source, tmp_path / "out.jsonl", schema=schema)
    assert [sample["label"] for sample in read_json(tmp_path / "out.jsonl")] == [[1.0, 3.0], [MASKED, 1.0]]
    assert summary.counts == {"conversations": 4, "without a label (no sample)": 3}
    assert summary.notes[1] == "1 labels of 'qualty', which the schema does not have, were dropped"


def test_the_summary_names_the_attributes_of_the_vector(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "a.jsonl", TALK)
    summary = write_regression(source, tmp_path / "out.jsonl", schema=AttributeSchema(names=("verbosity", "quality")))
    assert str(summary).endswith("; label vector: verbosity, quality")


@pytest.mark.parametrize(
    ("lines", "on_error", "why"),
    [
        ([TALK], "fail", "no turn has a label of warm, brief; the labels name creativity, humor, quality, "),
        ([talk_with(None), talk_with("")], "fail", "no turn has a label of warm, brief; no turn has any label; "),
        ([], "fail", "0 conversations were read, 0 lines rejected"),
        (["{", "{"], "skip", "0 conversations were read, 2 lines rejected"),
    ],
)
def test_a_file_without_a_sample_is_an_error_and_leaves_what_was_there(
    tmp_path: Path, lines: list[Any], on_error: Any, why: str
) -> None:
    source, target = write_lines(tmp_path / "a.jsonl", *lines), tmp_path / "out" / "r.jsonl"
    schema = AttributeSchema(names=("warm", "brief"))
    with pytest.raises(InputError, match=rf"a\.jsonl: no sample: {why}"):
        write_regression(source, target, schema=schema, on_error=on_error, may_be_empty=False)
    assert list(target.parent.iterdir()) == []
    assert write_regression(source, target, schema=schema, on_error=on_error).written == {"r.jsonl": 0}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (talk_with("quality"), r"conversations\.1\.label: label string 'quality'"),
        (talk_with("quality:high"), "not in the form"),
        (talk_with("quality:nan"), "not in the form"),
        (talk_with("quality:1:2"), "not in the form"),
        (talk_with("quality:4", "<extra_id_2>"), "label mark"),
        (talk_with("quality:4,quality:3"), "'quality' is given twice"),
        ({**talk_with(None), "mask": "Bot"}, "no turn is from 'Bot', the masked role; turns are from Ass"),
        (
            {"conversations": [{"value": "x", "from": "human"}, {"value": "y", "from": "gpt", "label": "quality:1"}]},
            r"conversations\.0\.from is 'human', expected User or Assistant; steerlm data convert maps other names",
        ),
        ({"text": "x", "label": [1.0]}, "conversations"),
        ('{"conversations": "\\ud800"}', "hex escape|surrogate"),
    ],
)
def test_a_bad_line_is_named_and_leaves_nothing_or_is_skipped(tmp_path: Path, line: Any, reason: str) -> None:
    source, target = write_lines(tmp_path / "a.jsonl", TALK, line, TALK), tmp_path / "out" / "r.jsonl"
    with pytest.raises(RecordError, match=rf"a\.jsonl:2: .*({reason})"):
        write_regression(source, target, schema=SCHEMA)
    assert list(target.parent.iterdir()) == []
    summary = write_regression(source, target, schema=SCHEMA, on_error="skip")
    assert (summary.written["r.jsonl"], summary.counts["rejected"]) == (4, 1)
    (reject,) = read_json(tmp_path / "out" / "r.jsonl.rejects.jsonl")
    assert (reject["file"], reject["line"]) == (str(source), 2)
    assert json.loads(reject["text"]) == (json.loads(line) if isinstance(line, str) else line)


def test_names_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "a.jsonl", TALK)
    with pytest.raises(InputError, match="not compressed"):
        write_regression(source, tmp_path / "out.jsonl.gz", schema=SCHEMA)
    with pytest.raises(InputError, match="is a folder"):
        write_regression(source, tmp_path, schema=SCHEMA)


def readable(record: dict[str, Any]) -> Conversation | None:
    """The record, if its speakers are known and its labels are written as ours."""
    try:
        talk = Conversation.model_validate(record)
    except ValidationError:
        return None
    written = [turn.get("label") for turn in record["conversations"]]
    return talk if [turn.label for turn in talk.conversations] == written else None


LABELS = (
    st.none() | st.text(max_size=12) | st.sampled_from(["quality:4", "humor:1,verbosity:2.5", "x:1", "quality:inf"])
)
NAMES = st.sampled_from(["User", "User", "Assistant", "Assistant", "Bot"])
TURNS = st.lists(
    st.fixed_dictionaries({"value": st.text(max_size=20), "from": NAMES})
    | st.fixed_dictionaries({"value": st.text(max_size=9), "from": NAMES, "label": LABELS}),
    min_size=1,
    max_size=5,
)
TALKS = st.fixed_dictionaries(
    {"conversations": TURNS, "system": st.text(max_size=9), "mask": st.sampled_from(["User", "Bot"])},
    optional={"type": st.sampled_from([None, "VALUE_TO_TEXT", "TEXT_TO_VALUE"]), "extra": st.integers()},
)
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(TALKS.filter(lambda record: readable(record) is not None))
def test_any_conversation_survives_a_round_trip(record: dict[str, Any]) -> None:
    line = Conversation.model_validate(record).to_json()
    assert json.loads(line) == record
    assert Conversation.model_validate_json(line).to_json() == line


def test_a_value_is_one_text_however_its_label_is_written(tmp_path: Path) -> None:
    labels = [
        "quality:3,toxicity:0",
        "quality:3.0,toxicity:0.0",
        "quality: 3 , toxicity:0",
        " quality :3e0,toxicity:-0",
    ]
    source = write_lines(tmp_path / "a.jsonl", *(talk_with(label) for label in labels))
    summary = write_regression(source, tmp_path / "out.jsonl", schema=SCHEMA)
    assert [sample["label"][:2] for sample in read_json(tmp_path / "out.jsonl")] == [[3.0, 0.0]] * 4
    assert summary.notes == []
    for label in labels:
        talk = Conversation.model_validate(talk_with(label))
        assert text_of(render(talk)).endswith(
            "<extra_id_1>Assistant\n<extra_id_2>quality:3,toxicity:0\nx\n<extra_id_1>"
        )


@settings(max_examples=60)
@given(line=TALKS | JSON | st.text(max_size=30) | st.binary(max_size=30))
def test_nothing_but_record_errors_comes_out(tmp_path_factory: pytest.TempPathFactory, line: Any) -> None:
    folder = tmp_path_factory.mktemp("regression")
    raw = line if isinstance(line, bytes) else line.encode() if isinstance(line, str) else json.dumps(line).encode()
    (folder / "a.jsonl").write_bytes(raw + b"\n" + json.dumps(TALK).encode())
    target = folder / "r.jsonl"
    try:
        write_regression(folder / "a.jsonl", target, schema=SCHEMA)
    except RecordError as error:
        assert error.line <= 1 + raw.count(b"\n")
        assert not target.exists()
    summary = write_regression(folder / "a.jsonl", target, schema=SCHEMA, on_error="skip")
    made = [RegressionSample.model_validate(sample) for sample in read_json(target)]
    assert len(made) == summary.written["r.jsonl"] >= 2
    assert all(sample.text.endswith("\n<extra_id_2>") and len(sample.label) == 9 for sample in made)


def test_samples_count_unknown_names_only_when_asked() -> None:
    talk = Conversation.model_validate(talk_with("x:1,quality:2"))
    unknown: Counter[str] = Counter()
    assert len(list(samples(talk, SCHEMA, unknown=unknown))) == len(list(samples(talk, SCHEMA))) == 1
    assert unknown == {"x": 1}


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    source = tmp_path / "big.jsonl"
    line = json.dumps({**TALK, "system": "s" * 20_000}) + "\n"
    with source.open("w") as file:
        for _ in range(1000):
            file.write(line)
    tracemalloc.start()
    try:
        write_regression(source, tmp_path / "r.jsonl", schema=SCHEMA)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert source.stat().st_size > 20e6
    assert peak < 3e6


LABELED = (
    '{"conversations": [{"from": "User", "value": "Hi"}, {"from": "Assistant", "value": "Ho", "label": "quality:4"}]}\n'
)


def test_the_input_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(LABELED)
    (tmp_path / "link.jsonl").symlink_to(path)
    for output_file in (path, tmp_path / "link.jsonl"):
        assert call(["data", "regression", "--input-file", str(path), "--output-file", str(output_file)]) == 2
        assert "is also the input, which would be lost" in capsys.readouterr().err
    assert path.read_text() == LABELED


def test_labels_outside_the_range_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "own.jsonl").write_text(LABELED.replace("quality:4", "quality:55"))
    words = ["--input-file", str(tmp_path / "own.jsonl"), "--output-file", str(tmp_path / "out.jsonl")]
    assert call(["data", "regression", *words]) == 0
    assert "1 labels of 'quality' are outside 0..4" in capsys.readouterr().err
