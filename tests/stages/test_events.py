"""The journal: whole lines, read as they come."""

from pathlib import Path

from steerlm.stages.events import Events, Reader


def test_lines_are_read_once_and_when_they_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    reader, events = Reader(path), Events(path)
    assert list(reader.new()) == []
    events.emit("say", "a", text="one")
    events.emit("say", "a", text="two")
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
    reader = Reader(path)
    assert [line["step"] for line in reader.new()] == [1, 2]
    path.write_text('{"step": 1}\n')
    assert [line["step"] for line in reader.new()] == [1]


def test_without_a_path_nothing_is_written() -> None:
    Events(None).emit("say", "a")
