# SPDX-License-Identifier: Apache-2.0
"""Lines in, lines out: exact bytes, errors with file and line, files that appear only when complete."""

import codecs
import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerlm.errors import InputError, RecordError
from steerlm.records import Conversation, RegressionSample, Turn, read_lines, read_records

GOOD = (
    '{"conversations": [{"value": "Où?", "from": "User", "label": null}, {"value": "Là.", "from": "Assistant"}], '
    '"system": "s", "mask": "User", "type": "VALUE_TO_TEXT"}'
)


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def test_a_line_survives_byte_for_byte_with_null_and_absent_labels_kept_apart(tmp_path: Path) -> None:
    ((number, talk),) = read_records(write(tmp_path / "a.jsonl", GOOD), Conversation)
    assert number == 1
    assert talk.to_json() == GOOD
    assert "label" in talk.conversations[0].model_fields_set
    assert "label" not in talk.conversations[1].model_fields_set


def test_unknown_keys_pass_through(tmp_path: Path) -> None:
    line = GOOD[:-1] + ', "dataset": "x", "n": [1, {"a": null}]}'
    ((_, talk),) = read_records(write(tmp_path / "a.jsonl", line), Conversation)
    assert json.loads(talk.to_json()) == json.loads(line)


def test_byte_order_marks_are_skipped_in_every_line(tmp_path: Path) -> None:
    mark = codecs.BOM_UTF8
    (tmp_path / "a.jsonl").write_bytes(mark + GOOD.encode() + b"\n" + mark + GOOD.encode() + b"\n" + mark)
    assert [(n, talk.to_json()) for n, talk in read_records(tmp_path / "a.jsonl", Conversation)] == [
        (1, GOOD),
        (2, GOOD),
    ]


def test_null_is_absent(tmp_path: Path) -> None:
    turns = [
        {"from": "User", "value": "A?", "label": None, "learned": None},
        {"from": "Assistant", "value": "B.", "label": "quality:3", "learned": None},
    ]
    nulls = {"conversations": turns, "system": None, "mask": None, "type": None}
    plain = {"conversations": [{k: v for k, v in turn.items() if v is not None} for turn in turns]}
    talks = [Conversation.model_validate_json(json.dumps(record)) for record in (nulls, plain)]
    assert [t.learned for t in talks[0].conversations] == [True, True]
    assert (talks[0].system, talks[0].mask) == (talks[1].system, talks[1].mask) == ("", "User")
    assert RegressionSample.model_validate_json('{"text": "x", "label": [null, 2]}').label == [-100.0, 2.0]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("quality:3", "quality:3"),
        ("quality:3.0,toxicity:0.0", "quality:3,toxicity:0"),
        (" quality : 3 , toxicity:-0", "quality:3,toxicity:0"),
        ("toxicity:0,quality:2.50", "toxicity:0,quality:2.5"),
        ("", ""),
        (None, None),
    ],
)
def test_a_label_has_one_form(written: str | None, read: str | None) -> None:
    assert Turn(value="x", speaker="Assistant", label=written).label == read


def test_gzip_is_read(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(GOOD + "\n")
    assert len(list(read_records(tmp_path / "a.jsonl.gz", Conversation))) == 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "JSON"),
        ("[]", "object"),
        ("{}", "conversations"),
        ('{"conversations": []}', "conversations"),
        ('{"conversations": [{"value": 3, "from": "User"}]}', "conversations.0.value"),
        ('{"conversations": [{"value": "x"}]}', "conversations.0.from"),
        ('{"conversations": [{"value": "x", "from": "U"}], "type": "OTHER"}', "type"),
        ('{"conversations": [{"value": "x", "from": "human"}, {"value": "y", "from": "gpt"}]}', "0.from is 'human'"),
        ('{"conversations": [{"value": "x", "from": "Assistant"}]}', "no turn is from 'User', the masked role"),
        (
            '{"conversations": [{"value": "x", "from": "User"}], "mask": "user"}',
            "no turn is from 'user', the masked role",
        ),
        ('{"conversations": [{"value": "x", "from": "User", "label": "a:1,a:2"}]}', "'a' is given twice"),
        ('{"conversations": [{"value": "<extra_id_2>quality:4", "from": "User"}]}', "label mark"),
    ],
)
def test_a_bad_line_is_named_and_can_be_passed_to_the_handler(tmp_path: Path, line: str, reason: str) -> None:
    path = write(tmp_path / "a.jsonl", GOOD, "", line, GOOD)
    with pytest.raises(RecordError, match=rf"a\.jsonl:3: .*{reason}"):
        list(read_records(path, Conversation))
    rejected: list[str] = []
    good = list(read_records(path, Conversation, lambda error, text: rejected.append(text)))
    assert [n for n, _ in good] == [1, 4]
    assert rejected == [line + "\n"]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        list(read_records(tmp_path / "none.jsonl", Conversation))
    with pytest.raises(InputError, match="is a folder"):
        list(read_records(tmp_path, Conversation))
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "\xe9", "label": [1.0]}\n')
    with pytest.raises(RecordError, match="UTF-8"):
        list(read_records(tmp_path / "latin.jsonl", RegressionSample))
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(GOOD.encode() * 99)[:-20])
    with pytest.raises(RecordError, match="gzip"):
        list(read_records(tmp_path / "cut.jsonl.gz", Conversation))


def test_a_line_that_is_not_utf8_is_passed_to_the_handler_and_the_next_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"one\n\xff\xfe\n\nfour")
    rejected: list[str] = []
    lines = list(read_lines(tmp_path / "a.jsonl", lambda error, text: rejected.append(f"{error.line} {text}")))
    assert lines == [(1, "one\n"), (4, "four")]
    assert rejected == ["2 \ufffd\ufffd\n"]


@given(st.text(min_size=1), st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_regression_samples_survive(text: str, label: list[float]) -> None:
    sample = RegressionSample(text=text, label=label)
    assert RegressionSample.model_validate_json(sample.to_json()) == sample
