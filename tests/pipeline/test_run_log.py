# SPDX-License-Identifier: Apache-2.0
"""The journal: whole lines, read as they come."""

from pathlib import Path

from steerlm.pipeline.run_log import RunLog, RunLogReader


def test_lines_are_read_once_and_when_they_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    reader, run_log = RunLogReader(path), RunLog(path)
    assert list(reader.new()) == []
    run_log.emit("progress", "a", text="one")
    run_log.emit("progress", "a", text="two")
    assert [e["text"] for e in reader.new()] == ["one", "two"]
    with open(path, "a") as file:
        file.write('{"text": "thr')
        file.flush()
        assert list(reader.new()) == []
        file.write('ee"}\n')
    assert [e["text"] for e in reader.new()] == ["three"]


def test_a_file_that_was_cut_back_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n')
    reader = RunLogReader(path)
    assert [line["step"] for line in reader.new()] == [1, 2]
    path.write_text('{"step": 1}\n')
    assert [line["step"] for line in reader.new()] == [1]


def test_without_a_path_nothing_is_written() -> None:
    RunLog(None).emit("progress", "a")
