# SPDX-License-Identifier: Apache-2.0
"""Whole lines, in the tutorial's order: `awk` repeats each line, `cat f f` the file."""

import gzip
from pathlib import Path

import pytest

from steerlm.datasets.merge import merge
from steerlm.errors import InputError, RecordError
from tests.datasets.raw import read_json, write_lines

A, B, C = (f'{{"system": "{name}",  "conversations": [{{"value":"é","from":"User"}}]}}' for name in "abc")


def test_lines_repeat_in_a_row_and_epochs_in_sequence(tmp_path: Path) -> None:
    first, second = write_lines(tmp_path / "1.jsonl.gz", A, "", B), tmp_path / "2.jsonl"
    second.write_text(C)  # no newline at its end
    out = tmp_path / "out.jsonl"
    for repeat, epochs, expected in ((1, 1, [A, B, C]), (2, 1, [A, A, B, B, C, C]), (1, 2, [A, B, C] * 2)):
        summary = merge([first, second], out, repeat=repeat, epochs=epochs)
        assert out.read_text(encoding="utf-8") == "".join(line + "\n" for line in expected)
        assert summary.written == {"out.jsonl": len(expected)}


def test_an_input_may_be_the_output(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "1.jsonl", A, B)
    merge([path, path], path)
    assert path.read_text(encoding="utf-8").split("\n")[:-1] == [A, B, A, B]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "expected a JSON object"),
        ('{"prompt": 1}', "expected a JSON object with the key"),
        ('{"text": "x"}', "has the key 'text', the lines before have 'conversations'"),
    ],
)
def test_a_bad_line_is_named_and_leaves_nothing_or_is_skipped(tmp_path: Path, line: str, reason: str) -> None:
    good, bad = write_lines(tmp_path / "1.jsonl", A), write_lines(tmp_path / "2.jsonl", B, line)
    out = tmp_path / "out" / "m.jsonl"
    with pytest.raises(RecordError, match=rf"2\.jsonl:2: {reason}"):
        merge([good, bad], out)
    assert list(out.parent.iterdir()) == []
    summary = merge([good, bad], out, epochs=2, on_error="skip")
    assert (summary.written["m.jsonl"], summary.counts["rejected"]) == (4, 1)
    assert [(r["line"], r["text"]) for r in read_json(tmp_path / "out" / "m.jsonl.rejects.jsonl")] == [(2, line)]


def test_files_that_are_not_there_or_not_utf8(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        merge([tmp_path / "none.jsonl"], tmp_path / "m.jsonl")
    (tmp_path / "latin.jsonl.gz").write_bytes(gzip.compress(b'{"text": "\xe9"}\n{"text": "e"}'))
    assert merge([tmp_path / "latin.jsonl.gz"], tmp_path / "m.jsonl", on_error="skip").counts == {"rejected": 1}
    with pytest.raises(InputError, match="at least one input"):
        merge([], tmp_path / "m.jsonl")
