# SPDX-License-Identifier: Apache-2.0
"""Lines in any order, with the place they came from, and nothing left behind."""

from pathlib import Path

import pytest

from steerlm.datasets.indexed_lines import IndexedLines
from steerlm.errors import RecordError
from tests.datasets.raw import write_lines


def test_lines_of_several_files_in_any_order(tmp_path: Path) -> None:
    one = write_lines(tmp_path / "1.jsonl.gz", '"é\u2028"', "", '"b"')
    two = tmp_path / "2.jsonl"
    two.write_text('"c"\n"d"')
    (tmp_path / "scratch").mkdir()

    def fail(error: RecordError, text: str) -> None:
        raise error

    with IndexedLines(tmp_path / "scratch") as lines:
        lines.fill([one], fail)
        assert lines.line(1) == '"b"\n'
        lines.fill([two], fail)
        assert [lines.line(i) for i in (3, 0, 2, 1)] == ['"d"\n', '"é\u2028"\n', '"c"\n', '"b"\n']
        assert [lines.where(i) for i in range(len(lines))] == [(one, 1), (one, 3), (two, 1), (two, 2)]
    assert list((tmp_path / "scratch").iterdir()) == []


def test_lines_that_are_not_utf8_are_handed_over(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'"a"\n\xff\n"c"\n')
    bad: list[int] = []
    with IndexedLines(tmp_path) as lines:
        lines.fill([tmp_path / "a.jsonl"], lambda error, text: bad.append(error.line))
        assert (len(lines), bad) == (2, [2])
    with IndexedLines(tmp_path) as lines, pytest.raises(RecordError, match="UTF-8"):
        lines.fill([tmp_path / "a.jsonl"], _raise)


def _raise(error: RecordError, text: str) -> None:
    raise error
