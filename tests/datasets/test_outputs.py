# SPDX-License-Identifier: Apache-2.0
"""Outputs that appear together, rejects beside them, the line that sums up."""

from pathlib import Path

import pytest

from steerlm.datasets.outputs import TRAIN, VAL, Summary, make_folder, output, single_output, split_output
from steerlm.errors import InputError, RecordError
from tests.datasets.raw import read_json


def test_both_files_appear_or_neither(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="a:3: bad"), split_output(tmp_path, "x", "fail") as out:
        out.write(TRAIN, "one\n")
        out.reject(RecordError("a", 3, "bad"), "text")
    assert list(tmp_path.iterdir()) == []
    with split_output(tmp_path, "x", "fail") as out:
        out.write(TRAIN, "one\n")
        assert [p.name.endswith(".partial") for p in tmp_path.iterdir()] == [True, True]
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {TRAIN: "one\n", VAL: ""}
    assert out.summary.written == {TRAIN: 1, VAL: 0}


def test_an_interruption_keeps_the_files_of_the_run_before(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("before\n")
    with pytest.raises(KeyboardInterrupt), single_output(tmp_path / "a.jsonl", "skip") as out:
        out.write("a.jsonl", "after\n")
        out.reject(RecordError("x", 1, "bad"), "x")
        raise KeyboardInterrupt
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a.jsonl": "before\n"}


def test_rejects_hold_any_text_and_do_not_outlive_their_run(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with single_output(path, "skip") as out:
        out.reject(RecordError("in.jsonl", 7, "odd"), "\ud800 é\n")
    rejects = tmp_path / "a.jsonl.rejects.jsonl"
    assert read_json(rejects) == [{"file": "in.jsonl", "line": 7, "reason": "odd", "text": "\ud800 é"}]
    assert str(out.summary) == f"a.jsonl: 0 lines; rejected 1; see {rejects}"
    with single_output(path, "skip"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]


def test_names_that_cannot_be_outputs(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "a.jsonl.gz", "not compressed"), (tmp_path, "is a folder")):
        with pytest.raises(InputError, match=reason), output([path], tmp_path / "r", "fail"):
            pass
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "a.jsonl", tmp_path / "file" / "deep" / "a.jsonl"):
        with pytest.raises(InputError, match="a file has this name"), single_output(path, "fail"):
            pass
    with pytest.raises(InputError, match="a file has this name"):
        make_folder(tmp_path / "file")


def test_the_summary_reads_as_one_line() -> None:
    summary = Summary(written={"train.jsonl": 12345}, counts={"rows": 3})
    summary.add("rows", 2)
    summary.add("odd")
    assert str(summary) == "train.jsonl: 12,345 lines; rows 5; odd 1"
