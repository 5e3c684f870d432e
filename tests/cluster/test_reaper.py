# SPDX-License-Identifier: Apache-2.0
"""The reaper with the rights of its own service account, on jobs as the back end makes them."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from steerlm.jobs.kubernetes.client import Cluster as Connection
from steerlm.jobs.kubernetes.config import ClusterSettings, ResourceSettings
from steerlm.jobs.kubernetes.kinds import KINDS
from steerlm.jobs.kubernetes.labels import HEARTBEAT, MANAGED_BY
from steerlm.jobs.kubernetes.pod import PodPlan
from steerlm.jobs.kubernetes.reaper import _delete
from tests.cluster.conftest import Cluster, wait_for
from tests.cluster.platform import kubeconfig_of, overlay

pytestmark = pytest.mark.fast
Json = dict[str, Any]


@pytest.fixture(scope="module")
def reaper(cluster: Cluster, namespace: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A kubeconfig of the reaper in this module's namespace."""
    kinds = ("ServiceAccount", "Role", "RoleBinding")
    cluster.apply(*(one for one in overlay(cluster, "lab", namespace) if one["kind"] in kinds))
    yield kubeconfig_of(cluster, "steerlm-reaper", namespace, tmp_path_factory.mktemp("reaper") / "config")


def create(cluster: Cluster, namespace: str, kind: str, name: str, age: timedelta, **labels: str | None) -> str:
    """Create a suspended job, which has no pods, with a heartbeat of an age; return `KIND/NAME`."""
    settings = ClusterSettings(namespace=namespace, resources=ResourceSettings(gpu=None, cpu="1", memory="1Gi"))
    beat = (datetime.now(UTC) - age).strftime("%Y-%m-%dT%H:%M:%SZ")
    plan = PodPlan(name, 1, "train-sft", cluster.base_image, "/workspace/x", settings, nodes=2, heartbeat=beat)
    *before, job = KINDS[kind].manifests(plan)
    policy = job["spec"] if kind == "trainjob" else job["spec"].setdefault("runPolicy", {})
    policy["suspend"] = True
    for key, value in labels.items():
        if value is None:
            del job["metadata"]["labels"][{"managed_by": MANAGED_BY}[key]]
    cluster.apply(*before, job)
    return f"{KINDS[kind].name}/{job['metadata']['name']}"


def existing(cluster: Cluster, namespace: str) -> set[str]:
    found = cluster.kubectl("-n", namespace, "get", "pytorchjobs,mpijobs.kubeflow.org,trainjobs", "-o", "json")
    return {f"{one['kind']}/{one['metadata']['name']}" for one in json.loads(found)["items"]}


def run(config: Path, namespace: str, *arguments: str) -> str:
    command = [sys.executable, "-m", "steerlm.jobs.kubernetes.reaper", "--namespace", namespace, *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "KUBECONFIG": str(config)}, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_jobs_without_a_launcher_are_deleted_and_no_others(cluster: Cluster, namespace: str, reaper: Path) -> None:
    old, new = timedelta(minutes=11), timedelta(minutes=2)
    left = {create(cluster, namespace, kind, f"left-{kind}", old) for kind in KINDS}
    queued = {create(cluster, namespace, kind, f"queued-{kind}", new) for kind in KINDS}
    foreign = create(cluster, namespace, "pytorchjob", "foreign", old, managed_by=None)
    assert existing(cluster, namespace) == {*left, *queued, foreign}
    said = run(reaper, namespace)
    assert existing(cluster, namespace) == {*queued, foreign}
    assert all(re.search(rf"{name}: heartbeat [\d.]+ min old, deleted \(limit 10.0 min\)", said) for name in left)
    assert all(re.search(rf"{name}: heartbeat [\d.]+ min old, kept", said) for name in queued)
    assert f"deleted {len(KINDS)} jobs" in said
    run(reaper, namespace, "--minutes", "1")
    assert existing(cluster, namespace) == {foreign}


def test_a_runtime_goes_when_no_trainjob_names_it(cluster: Cluster, namespace: str, reaper: Path) -> None:
    def runtimes() -> list[str]:
        return cluster.kubectl("-n", namespace, "get", "trainingruntimes", "-o", "name").split()

    run(reaper, namespace, "--runtime-minutes", "0")  # what other tests have left
    wait_for("end of unused runtimes", lambda: not runtimes(), 60)
    name = create(cluster, namespace, "trainjob", "runtime", timedelta())
    assert "in use, kept" in run(reaper, namespace, "--runtime-minutes", "0")
    assert len(runtimes()) == 1
    cluster.kubectl("-n", namespace, "delete", name)
    assert re.search(r"TrainingRuntime/\S+: [\d.]+ min old, kept", run(reaper, namespace))
    # The Trainer may still change it, when it has seen the end of the job.
    wait_for(
        "deletion by the reaper",
        lambda: "and 1 runtimes" in run(reaper, namespace, "--runtime-minutes", "0") or not runtimes(),
        60,
    )
    wait_for("end of the runtime", lambda: not runtimes(), 60)


def test_a_heartbeat_in_the_last_moment_saves_the_job(
    cluster: Cluster, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    connection = Connection()
    name = create(cluster, namespace, "pytorchjob", "renewed", timedelta(minutes=11)).partition("/")[2]
    path = f"/apis/kubeflow.org/v1/namespaces/{namespace}/pytorchjobs/{name}"
    seen = connection.get(path)["metadata"]
    connection.patch(path, {"metadata": {"annotations": {HEARTBEAT: datetime.now(UTC).isoformat()}}})
    assert not _delete(connection, path, seen)
    assert connection.find(path) is not None
    connection.delete(path)


def test_a_right_that_is_missing_is_one_sentence(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    config = kubeconfig_of(cluster, "default", namespace, tmp_path / "config")
    command = [sys.executable, "-m", "steerlm.jobs.kubernetes.reaper", "--namespace", namespace]
    environment = {**os.environ, "KUBECONFIG": str(config)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 1 and "is forbidden" in done.stdout and "Traceback" not in done.stderr
