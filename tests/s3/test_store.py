# SPDX-License-Identifier: Apache-2.0
"""A store in a real MinIO: two machines on one key, the store's commands, a whole pipeline with MLflow as a server."""

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from demos.synthetic import free_port
from steerlm.artifact import Store
from steerlm.cli.main import call
from steerlm.errors import StorageError
from steerlm.pipeline.local import run_pipeline
from steerlm.recipe import load_recipe
from tests.conftest import ROOT
from tests.pipelines.test_own_attributes import write_recipe
from tests.s3.conftest import BUCKET, PASSWORD, Server
from tests.s3.test_transfers import overwrite


def make(store: Store, key: str, text: str, files: int = 30) -> None:
    """Begin and finish a key as a stage would."""
    store.begin("stage", key, "data", {"x": 1})
    for number in range(files):
        (store.folder("stage", key) / "data" / f"{number}.txt").write_text(f"{text} {number}")
    store.finish("stage", key, "data", None, {})


def test_two_machines_on_one_key_leave_one_whole_artifact(s3: Server, tmp_path: Path) -> None:
    uri = f"s3://{BUCKET}/two"
    refused: list[str] = []

    def machine(name: str) -> None:
        try:
            make(Store(uri, tmp_path / name), "k", name)
        except StorageError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=machine, args=(name,)) for name in ("one", "other")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all("another machine is writing the same key" in text for text in refused)
    if len(refused) == 2:  # each saw the other's files: whoever runs again finishes
        make(Store(uri, tmp_path / "third"), "k", "third")
    third = Store(uri, tmp_path / "reader")
    artifact = third.materialize(third.open("stage", "k"))
    writers = {path.read_text().split()[0] for path in artifact.path.iterdir()}
    assert len(writers) == 1
    make(Store(uri, tmp_path / "late"), "k", "late")  # finds it made, and takes that
    late = Store(uri, tmp_path / "late")
    assert late.materialize(late.open("stage", "k")).digest == artifact.digest


def test_list_verify_and_clear(s3: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = f"s3://{BUCKET}/kept"
    store = Store(uri, tmp_path / "cache")
    for key in ("a", "b", "c"):
        make(store, key, key, files=3)
        time.sleep(1.1)  # times are in seconds
    assert store.remote is not None
    store.remote.at("stage/half").upload(store.folder("stage", "a") / "key.json", "key.json")
    assert call(["store", "list", uri, "--json"]) == 0
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {one["key"]: one["state"] for one in listed} == {
        "a": "complete", "b": "complete", "c": "complete", "half": "unfinished",
    }  # fmt: skip
    assert call(["store", "verify", uri]) == 0
    overwrite(store.remote.at("stage/b/data"), "1.txt", b"X 1")
    assert call(["store", "verify", uri]) == 1
    assert "stage/b/data/1.txt" in capsys.readouterr().out
    assert call(["store", "gc", uri, "--keep", "1"]) == 0
    assert capsys.readouterr().out.count("would be deleted") == 3
    assert call(["store", "gc", uri, "--keep", "1", "--delete"]) == 0
    capsys.readouterr()
    assert call(["store", "list", uri, "--json"]) == 0
    assert [json.loads(line)["key"] for line in capsys.readouterr().out.splitlines()] == ["c"]


@pytest.fixture
def mlflow_server(tmp_path: Path) -> Iterator[str]:
    port = free_port()
    words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    words += ["--backend-store-uri", f"sqlite:///{tmp_path / 'mlflow.db'}", "--artifacts-destination", str(tmp_path)]
    with open(tmp_path / "mlflow.log", "w") as log:
        server = subprocess.Popen(words, stdout=log, stderr=log, env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"})
    try:
        until = time.monotonic() + 120
        while time.monotonic() < until:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


@pytest.mark.timeout(900)
def test_a_pipeline_with_its_store_in_minio_and_mlflow_as_a_server(
    s3: Server, tmp_path: Path, mlflow_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "one"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    recipe = write_recipe(tmp_path)
    resolved = load_recipe(recipe, None, [f"profile.store=s3://{BUCKET}/pipeline"])
    first = run_pipeline(resolved, lambda event: None)
    assert {o["status"] for o in first.outcomes} <= {"run", "skipped"}
    assert call(["store", "verify", f"s3://{BUCKET}/pipeline"]) == 0
    # Another machine, with nothing but the store, finds everything made.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    second = run_pipeline(resolved, lambda event: None)
    assert {o["status"] for o in second.outcomes} <= {"hit", "skipped"}
    import mlflow

    mlflow.set_tracking_uri(mlflow_server)
    runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    nested = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert parents and {"train_reward", "train_sft"} <= {run.info.run_name for run in nested}
    for path in [*tmp_path.rglob("*.log"), *tmp_path.rglob("*.json")]:
        assert PASSWORD not in path.read_text(errors="replace"), path
