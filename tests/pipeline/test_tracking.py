# SPDX-License-Identifier: Apache-2.0
"""MLflow with a real SQLite store: the runs written from a run log, and failures that stop nothing."""

import logging
import time
from pathlib import Path
from typing import Any

import pytest

from steerlm.pipeline.run_log import RunLog
from steerlm.pipeline.tracking import Recorder, recording
from steerlm.recipe import TrackingSettings
from steerlm.training.sink import JsonlSink

PARTS = {"code": "abc", "config": {"optimizer": {"lr": 0.1}, "names": ["a", "b"]}, "inputs": {"data": "d" * 64}}


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A client of a store with one run of two stages, one of which failed."""
    root = tmp_path_factory.mktemp("store")
    folder = root / "train_sft" / "k1"
    run_log = RunLog(root / "run_log.jsonl")
    settings = TrackingSettings(experiment="test")
    with recording("demo", root / "run_log.jsonl", settings, root):
        run_log.emit("step", "prepare_data")
        run_log.emit("outcome", "prepare_data", status="hit", reason="", seconds=0.1)
        run_log.start("train_sft", "train_sft", "k1", folder, PARTS)
        sink = JsonlSink(folder / "work" / "metrics.jsonl")
        for step in (1, 2, 3):
            sink.log({"train/loss": 1.0 / step, "train/lr": 0.1}, step)
        time.sleep(1.5)
        sink.log({"train/loss": 0.2, "train/lr": 0.1}, 4)
        (folder / "logs").mkdir()  # the stage finishes before the recorder has read the last line
        (folder / "work" / "metrics.jsonl").rename(folder / "logs" / "metrics.jsonl")
        run_log.end("train_sft", "k1", "FINISHED", {"steps": 4}, "e" * 64)
        run_log.start("evaluate", "evaluate", "k2", root / "evaluate" / "k2", PARTS)
        run_log.end("evaluate", "k2", "FAILED", {}, None)
    from mlflow.tracking import MlflowClient

    return MlflowClient(settings.resolve_uri(root)), root


def runs(client: Any) -> dict[str, Any]:
    experiment = client.get_experiment_by_name("test")
    by_name = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert len(by_name) == 3, "one parent, one run per executed stage, none for a hit"
    return by_name


def test_one_parent_and_a_nested_run_per_stage(tracked: tuple[Any, Path]) -> None:
    recorded = runs(tracked[0])
    parent = recorded["demo"].info.run_id
    assert {n: r.info.status for n, r in recorded.items()} == {
        "demo": "FINISHED",
        "train_sft": "FINISHED",
        "evaluate": "FAILED",
    }
    for name in ("train_sft", "evaluate"):
        assert recorded[name].data.tags["mlflow.parentRunId"] == parent


def test_params_metrics_and_tags(tracked: tuple[Any, Path]) -> None:
    client, root = tracked
    run = runs(client)["train_sft"]
    assert run.data.params == {"optimizer.lr": "0.1", "names.0": "a", "names.1": "b"}
    tags = {k: v for k, v in run.data.tags.items() if k.startswith("steerlm.")}
    assert tags == {
        "steerlm.stage": "train_sft",
        "steerlm.key": "k1",
        "steerlm.code": "abc",
        "steerlm.folder": str(root / "train_sft" / "k1"),
        "steerlm.input.data": "d" * 64,
        "steerlm.digest": "e" * 64,
    }
    losses = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(m.step, m.value) for m in sorted(losses, key=lambda m: m.step)] == [
        (1, 1.0),
        (2, 0.5),
        (3, 1 / 3),
        (4, 0.2),
    ]
    assert run.data.metrics["final/steps"] == 4


def test_a_failure_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = TrackingSettings(uri="nosuch://place")
    path = tmp_path / "run_log.jsonl"
    with caplog.at_level(logging.WARNING), recording("demo", path, settings, tmp_path):
        RunLog(path).start("fake", "fake", "k", tmp_path, PARTS)
    (message,) = [r.getMessage() for r in caplog.records if r.name == "steerlm.pipeline.tracking"]
    assert message.startswith("MLflow at nosuch://place: ")


def test_a_run_of_hits_imports_and_writes_nothing(tmp_path: Path) -> None:
    recorder = Recorder("demo", tmp_path / "run_log.jsonl", TrackingSettings(), tmp_path)
    recorder.start()
    RunLog(tmp_path / "run_log.jsonl").emit("outcome", "a", status="hit", reason="", seconds=0.0)
    recorder.close("FINISHED")
    assert recorder._client is None
    assert not (tmp_path / "mlflow.db").exists()


def test_the_address_is_from_the_profile_then_the_environment_then_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert TrackingSettings().resolve_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    assert TrackingSettings().resolve_uri(Path("/a b/50%?")) == "sqlite:////a b/50%25%3F/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    assert TrackingSettings().resolve_uri(tmp_path) == "http://server"
    assert TrackingSettings(uri="http://other").resolve_uri(tmp_path) == "http://other"
