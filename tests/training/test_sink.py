# SPDX-License-Identifier: Apache-2.0
"""Sinks: no step twice in the file after a killed run, and progress with and without a terminal."""

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from steerlm.training.sink import JsonlSink, ProgressSink, Sinks


def read(path: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(line.pop("time") > 0 for line in lines)
    return lines


def logged(path: Path, *entries: tuple[int, dict[str, float]]) -> list[dict[str, float]]:
    with Sinks([JsonlSink(path)]) as sink:
        for step, metrics in entries:
            sink.log(metrics, step)
    return read(path)


def test_lines_are_appended_over_several_runs(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "metrics.jsonl"
    logged(path, (1, {"a": 1.0}), (2, {"a": 2.0}), (2, {"b": 3.0}))
    assert logged(path, (3, {"a": 4.0})) == [
        {"step": 1, "a": 1.0},
        {"step": 2, "a": 2.0},
        {"step": 2, "b": 3.0},
        {"step": 3, "a": 4.0},
    ]


def test_steps_beyond_the_last_checkpoint_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    logged(path, *((step, {"a": 1.0}) for step in range(1, 6)))
    lines = logged(path, (3, {"a": 2.0}), (4, {"a": 2.0}))
    assert [(line["step"], line["a"]) for line in lines] == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0)]


def test_a_line_of_the_same_step_is_replaced_if_it_has_the_same_keys(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    logged(path, (5, {"train": 1.0}))
    assert logged(path, (5, {"validation": 2.0})) == [{"step": 5, "train": 1.0}, {"step": 5, "validation": 2.0}]
    assert logged(path, (5, {"validation": 3.0})) == [{"step": 5, "train": 1.0}, {"step": 5, "validation": 3.0}]
    assert logged(path, (5, {"train": 4.0})) == [{"step": 5, "validation": 3.0}, {"step": 5, "train": 4.0}]


def test_an_unfinished_last_line_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    logged(path, (1, {"a": 1.0}))
    with path.open("a") as file:
        file.write('{"step": 2, "a"')
    assert logged(path, (2, {"a": 2.0})) == [{"step": 1, "a": 1.0}, {"step": 2, "a": 2.0}]


def test_progress_is_a_log_line_every_few_seconds(caplog: pytest.LogCaptureFixture) -> None:
    sink = ProgressSink(100, "reward", every=math.inf)
    with caplog.at_level(logging.INFO):
        for step in (1, 2, 3):
            sink.log({"train/loss": 1 / step, "train/lr": 1e-3}, step)
        sink.log({"validation/loss": 0.25}, 3)
        sink.log({"train/loss": 0.1}, 100)
    sink.close()
    assert [r.getMessage() for r in caplog.records] == [
        "reward step 1/100 loss=1 lr=0.001",
        "reward step 3/100 validation_loss=0.25",
        "reward step 100/100 loss=0.1",
    ]


def test_progress_is_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    sink = ProgressSink(10, "sft")
    for step in (7, 8):
        sink.log({"train/loss": 0.5}, step)
    sink.close()
    assert "8/10" in capsys.readouterr().err


def test_several_sinks_receive_the_same_metrics() -> None:
    got: list[tuple[int, float]] = []

    class Keep:
        def log(self, metrics: Mapping[str, float], step: int) -> None:
            got.append((step, metrics["a"]))

        def close(self) -> None:
            got.append((-1, 0.0))

    with Sinks([Keep(), Keep()]) as sink:
        sink.log({"a": 1.0}, 4)
    assert got == [(4, 1.0), (4, 1.0), (-1, 0.0), (-1, 0.0)]
    Sinks().log({"a": 1.0}, 1)
