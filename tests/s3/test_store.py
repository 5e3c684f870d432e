# SPDX-License-Identifier: Apache-2.0
"""A store in a real MinIO: two machines on one key, the store's commands, a whole pipeline with MLflow as a server."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from demos.synthetic import free_port
from steerlm.artifact import Artifact, Store
from steerlm.cli.main import call
from steerlm.pipeline.local import run_pipeline
from steerlm.recipe import load_recipe
from steerlm.storage import S3Prefix
from tests.conftest import ROOT
from tests.pipelines.test_own_attributes import write_recipe
from tests.s3.conftest import BUCKET, PASSWORD, Server
from tests.s3.test_transfers import overwrite


def make(store: Store, key: str, text: str, files: int = 30) -> Artifact:
    """Begin and finish a key as a stage would."""
    store.begin("stage", key, "data", {"x": 1})
    for number in range(files):
        (store.folder("stage", key) / "data" / f"{number}.txt").write_text(f"{text} {number}")
    return store.finish("stage", key, "data", None, {})


def test_of_machines_that_make_one_key_one_wins_and_the_others_take_its_artifact(s3: Server, tmp_path: Path) -> None:
    uri, names = f"s3://{BUCKET}/many", [f"machine{number}" for number in range(4)]
    with ThreadPoolExecutor(len(names)) as pool:
        artifacts = list(pool.map(lambda name: make(Store(uri, tmp_path / name), "k", name), names))
    assert len({artifact.digest for artifact in artifacts}) == 1
    reader = Store(uri, tmp_path / "reader")
    artifact = reader.materialize(reader.open("stage", "k"))
    assert artifact.digest == artifacts[0].digest
    (writer,) = {path.read_text().split()[0] for path in artifact.path.iterdir()}
    for name, one in zip(names, artifacts, strict=True):
        own = Store(uri, tmp_path / name)
        assert {path.read_text().split()[0] for path in own.materialize(one).path.iterdir()} == {writer}
    assert make(Store(uri, tmp_path / "late"), "k", "late").digest == artifact.digest


def test_one_of_many_writes_an_object_under_a_condition(s3: Server) -> None:
    place, version = S3Prefix.open(f"s3://{BUCKET}/condition"), None
    for start in (0, 16):  # first the object does not exist, then it has the version that all have seen
        contents = [b"%d" % (start + number) for number in range(16)]
        with ThreadPoolExecutor(16) as pool:
            won = list(pool.map(lambda content, version=version: place.put_if("seal", content, version), contents))
        (version,) = [one for one in won if one]
        reply = place.client.get_object(bucket_name=BUCKET, object_name="condition/seal")
        assert reply.data == contents[won.index(version)]
    place.discard("seal")
    assert place.put_if("seal", b"again", version) is None
    assert place.put_if("seal", b"again", None)


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
