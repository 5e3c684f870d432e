# SPDX-License-Identifier: Apache-2.0
"""A node that stops answering under a job of 32 nodes: the next attempt runs on the 32 others.

The back end works in this process, and its jobs on the lab's fake nodes, whose pods have no containers.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from steerlm import attempt
from steerlm.jobs.backend import Job, JobStatus
from steerlm.jobs.config import JobSettings
from steerlm.jobs.kubernetes import labels
from steerlm.jobs.kubernetes.attempts import attempt_folder
from steerlm.jobs.kubernetes.backend import KubernetesBackend
from steerlm.jobs.kubernetes.config import ClusterSettings
from steerlm.jobs.kubernetes.kinds import KINDS
from tests.cluster.conftest import Cluster, wait_for
from tests.cluster.platform import NAMESPACE, install, kubeconfig_of
from tests.conftest import ROOT

NODES = 32
GPU = "nvidia.com/gpu"
SEVENTH = re.compile(r"-worker-7$|-node-0-7-\w+$")  # the second is JobSet's, which makes the pods of a TrainJob
FAKE = {"node_selector": {"type": "kwok"}, "tolerations": [{"operator": "Exists"}]}


@pytest.fixture
def a_33rd_node(cluster: Cluster) -> Iterator[None]:
    cluster.script("fake-nodes.sh", "add", "32")
    yield
    cluster.script("fake-nodes.sh", "remove", "gpu-32")


@pytest.fixture(params=KINDS)
def backend(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> KubernetesBackend:
    """Of each kind of job, with the rights of the launcher."""
    install(cluster)
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig_of(cluster, "steerlm-launcher", NAMESPACE, tmp_path / "account")))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    settings = {"namespace": NAMESPACE, "queue": "steerlm", "workspace": {"path": str(tmp_path)}, "placement": FAKE}
    return KubernetesBackend(request.param, ClusterSettings.model_validate(settings), JobSettings(attempts=2))


def test_the_next_attempt_runs_on_the_other_nodes_while_the_lost_pod_is_terminating(
    cluster: Cluster, a_33rd_node: None, backend: KubernetesBackend, tmp_path: Path
) -> None:
    job = Job("lost-node", "steerlm.trainjob.worker", {}, tmp_path / "job", tmp_path / "job.log", NODES, 8)
    backend.ensure(job)
    first = until_running(cluster, backend, job, 1)
    report_step(tmp_path / "job", 1, 7)
    assert backend.status(job.name).state == "running"
    pod, node = next((name, node) for name, node in first.items() if SEVENTH.search(name))
    # What the kubelet of a dead node would have to do, and does not: this keeps the pod Terminating.
    cluster.kubectl("-n", NAMESPACE, "patch", "pod", pod, "--type=merge", "-p", KEPT)
    cluster.script("fake-nodes.sh", "silence", node)
    silent = time.monotonic()
    try:
        status = wait_for("the end of the attempt", lambda: ended(backend, job), 120)
        assert (status.state, status.message) == ("failed", f"lost the node {node}")
        noticed = time.monotonic()
        backend.ensure(job)
        second = until_running(cluster, backend, job, 2)
        running = time.monotonic()
        assert node not in second.values() and len(set(second.values())) == NODES
        lost = cluster.core.read_namespaced_pod(pod, NAMESPACE)
        assert lost.metadata.deletion_timestamp is not None and lost.spec.node_name == node
        assert running - noticed < 60, f"{noticed - silent:.0f} s until it was noticed, then {running - noticed:.0f} s"
        for number, word in ((1, "attempt 2 of this job is the current one"), (2, "")):
            assert word == publish(attempt_folder(tmp_path / "job", number), word)
    finally:
        cluster.kubectl(
            "-n", NAMESPACE, "patch", "pod", pod, "--type=merge", "-p", KEPT.replace('["lab/kept"]', "null")
        )
        backend.cancel(job.name, force=True)
        cluster.script("fake-nodes.sh", "wake", node)
    assert wait_for("the end of the job", lambda: ended(backend, job), 60).state == "interrupted"


KEPT = '{"metadata": {"finalizers": ["lab/kept"]}}'


def ended(backend: KubernetesBackend, job: Job) -> JobStatus | None:
    status = backend.status(job.name)
    return status if status.ended else None


def until_running(cluster: Cluster, backend: KubernetesBackend, job: Job, number: int) -> dict[str, str]:
    """Wait until all pods of an attempt run; return the node of each with GPUs: not of an MPIJob's launcher."""

    def running() -> dict[str, str]:
        assert not backend.status(job.name).ended, backend.status(job.name)
        selector = labels.selector(job.name, number)
        pods = cluster.core.list_namespaced_pod(NAMESPACE, label_selector=selector).items
        if any(pod.status.phase != "Running" for pod in pods):
            return {}
        up = {pod.metadata.name: pod.spec.node_name for pod in pods if GPU in pod.spec.containers[0].resources.limits}
        return up if len(up) == NODES else {}

    return wait_for(f"pods of attempt {number}", running, 120, lambda: cluster.kubectl("-n", NAMESPACE, "get", "pods"))


def report_step(folder: Path, number: int, step: int) -> None:
    """What rank 0 would write."""
    beat = {"phase": "train", "step": step}
    (attempt_folder(folder, number) / attempt.HEARTBEAT).write_text(json.dumps(beat))


def publish(folder: Path, word: str) -> str:
    """What a process of an attempt is told when it is about to publish a checkpoint: `word` if that is part of it."""
    code = "from steerlm import attempt; attempt.check_current()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, attempt.FOLDER: str(folder)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return word if word and word in done.stderr else done.stderr
