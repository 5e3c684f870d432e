# SPDX-License-Identifier: Apache-2.0
"""The run log: whole lines, read as they are appended."""

from pathlib import Path

from steerlm.pipeline.run_log import RunLog, RunLogReader


def test_a_line_is_read_once_and_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "run_log.jsonl"
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


def test_a_truncated_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n')
    reader = RunLogReader(path)
    assert [line["step"] for line in reader.new()] == [1, 2]
    path.write_text('{"step": 1}\n')
    assert [line["step"] for line in reader.new()] == [1]


def test_a_replaced_file_is_read_again_whatever_its_size(tmp_path: Path) -> None:
    """A resumed training replaces its metrics file and may add lines before the next look at it."""
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n')
    reader = RunLogReader(path)
    assert [line["step"] for line in reader.new()] == [1, 2]
    other = tmp_path / "other"
    other.write_text('{"step": 1, "loss": 0.5}\n{"step": 3}\n{"step": 4}\n')
    other.replace(path)
    assert [line["step"] for line in reader.new()] == [1, 3, 4]


def test_without_a_path_nothing_is_written() -> None:
    RunLog(None).emit("progress", "a")
