# SPDX-License-Identifier: Apache-2.0
"""The reaper without a cluster; that it deletes what it should is tested in tests/cluster/test_reaper.py."""

import copy
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from steerlm.jobs.kubernetes.client import Cluster
from steerlm.jobs.kubernetes.config import ClusterSettings
from steerlm.jobs.kubernetes.kinds import KINDS
from steerlm.jobs.kubernetes.labels import HEARTBEAT, MANAGED_BY
from steerlm.jobs.kubernetes.pod import PodPlan
from steerlm.jobs.kubernetes.reaper import ReapLimits, _age, _limit, reap_runtimes
from tests.jobs.kubernetes.fake_api import fake_api


def run(*arguments: str, kubeconfig: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "steerlm.jobs.kubernetes.reaper", *arguments]
    environment = {**os.environ, "KUBECONFIG": kubeconfig}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_what_is_missing_is_said() -> None:
    outside = run()
    assert outside.returncode == 2 and "not in a pod: give --namespace" in outside.stderr
    nowhere = run("--namespace", "steerlm", kubeconfig="/absent/config")
    assert nowhere.returncode == 2 and "no access to a Kubernetes cluster" in nowhere.stdout


def job(created: timedelta, beat: str | None, *conditions: str) -> dict[str, Any]:
    made = (datetime.now(UTC) - created).strftime("%Y-%m-%dT%H:%M:%SZ")
    annotations = {} if beat is None else {HEARTBEAT: beat}
    status = {"conditions": [{"type": kind, "status": "True"} for kind in conditions]}
    return {
        "metadata": {"creationTimestamp": made, "annotations": annotations},
        "spec": {"runPolicy": {}},
        "status": status,
    }


def ago(**span: float) -> str:
    return (datetime.now(UTC) - timedelta(**span)).isoformat()


def test_the_age_is_that_of_the_heartbeat_else_of_the_job() -> None:
    def near(metadata: dict[str, Any], minutes: float) -> bool:
        return timedelta(0) <= _age(metadata) - timedelta(minutes=minutes) < timedelta(seconds=30)

    assert near(job(timedelta(hours=5), ago(minutes=3))["metadata"], 3)
    assert near(job(timedelta(hours=5), ago(minutes=3).replace("+00:00", "Z"))["metadata"], 3)
    assert near(job(timedelta(hours=5), ago(minutes=3).replace("+00:00", ""))["metadata"], 3), "UTC without a zone"
    assert near(job(timedelta(minutes=4), None)["metadata"], 4)
    assert near(job(timedelta(minutes=4), "yesterday")["metadata"], 4)
    assert near({**job(timedelta(minutes=4), None)["metadata"], "annotations": None}, 4)


@pytest.mark.parametrize("conditions", [(), ("Created",), ("Created", "Running"), ("Suspended",)])
def test_a_job_that_has_not_ended_has_ten_minutes(conditions: tuple[str, ...]) -> None:
    assert _limit(job(timedelta(), None, *conditions), ReapLimits()) == timedelta(minutes=10)


@pytest.mark.parametrize("condition", ["Succeeded", "Complete", "Failed"])
def test_an_ended_job_has_a_day(condition: str) -> None:
    assert _limit(job(timedelta(), None, "Created", condition), ReapLimits()) == timedelta(hours=24)


TRAINER = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/steerlm"


def test_old_runtimes_that_no_trainjob_names_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = PodPlan("job", 1, "train-sft", "example/train-sft:1", "/workspace/a", ClusterSettings())
    runtime, trainjob = KINDS["trainjob"].manifests(plan)

    def made(minutes: float, name: str) -> dict[str, Any]:
        one = copy.deepcopy(runtime)
        stamp = (datetime.now(UTC) - timedelta(minutes=minutes)).strftime("%Y-%m-%dT%H:%M:%SZ")
        one["metadata"] |= {"creationTimestamp": stamp, "resourceVersion": "1", "name": name}
        return one

    used, foreign = made(90, runtime["metadata"]["name"]), made(90, "foreign")
    del foreign["metadata"]["labels"][MANAGED_BY]
    runtimes = [used, foreign, made(90, "left"), made(50, "new")]
    del trainjob["metadata"]["labels"]  # of someone who has found the runtime
    with fake_api() as api:
        monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(tmp_path / "kubeconfig")))
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        assert reap_runtimes(Cluster(), "steerlm", ReapLimits().runtime) == [], "no such kind"
        api.collections = {f"{TRAINER}/trainingruntimes": runtimes, f"{TRAINER}/trainjobs": [trainjob]}
        assert reap_runtimes(Cluster(), "steerlm", ReapLimits().runtime) == ["left"]
    assert [one["metadata"]["name"] for one in runtimes] == [used["metadata"]["name"], "foreign", "new"]
