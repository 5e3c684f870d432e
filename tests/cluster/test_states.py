# SPDX-License-Identifier: Apache-2.0
"""The states that the operators give real jobs, as `Kind.state` reads them.

With STEERLM_RECORD_STATES=1 the objects are written to `tests/jobs/kubernetes/states`, which the tests that need no
cluster read: do so when an operator's version changes.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from steerlm.jobs.kubernetes.condition import Phase
from steerlm.jobs.kubernetes.config import ClusterSettings
from steerlm.jobs.kubernetes.kinds import KINDS
from steerlm.jobs.kubernetes.pod import PodPlan
from tests.cluster.conftest import Cluster, wait_for
from tests.cluster.job_objects import create, explain, read, state, withdraw, workspace
from tests.conftest import ROOT

RECORDED = ROOT / "tests" / "jobs" / "kubernetes" / "states"
SMALL = {
    "gpu": None,
    "cpu": "50m",
    "memory": "64Mi",
    "shared_memory": "16Mi",
    "ephemeral_storage": "64Mi",
}
LISTEN = "import time\ntime.sleep(600)"
SSH = "import socket, time\nserver = socket.create_server(('', 2222))\ntime.sleep(600)"
CASES: dict[str, tuple[Phase, str, dict[str, Any]]] = {
    "created": ("created", LISTEN, {"placement": {"node_selector": {"nowhere": "yes"}}}),
    "queued": ("queued", LISTEN, {"queue": "of-nobody"}),
    "running": ("running", LISTEN, {}),
    "succeeded": ("succeeded", "", {}),
    "failed": ("failed", "raise SystemExit(3)", {}),
    "deadline": ("failed", LISTEN, {}),
}
"""By name: the phase, the program of each node (of the launcher, in an MPIJob), and the settings."""


@pytest.fixture(scope="module")
def place(cluster: Cluster, namespace: str) -> Iterator[str]:
    with workspace(cluster, namespace):
        yield namespace


def changed(manifests: list[dict[str, Any]], program: str, deadline: bool) -> list[dict[str, Any]]:
    """The manifests with another program, and little time to stop."""
    text = json.dumps(manifests)
    text = text.replace('"terminationGracePeriodSeconds": 360', '"terminationGracePeriodSeconds": 1')
    if deadline:
        text = text.replace('"activeDeadlineSeconds": 259200', '"activeDeadlineSeconds": 10')
    changed: list[dict[str, Any]] = json.loads(text)
    spec = changed[-1]["spec"]
    command = ["python3", "-c", program]
    if "trainer" in spec:
        spec["trainer"]["command"] = command
    for name, replica in (spec.get("pytorchReplicaSpecs") or spec.get("mpiReplicaSpecs") or {}).items():
        (container,) = replica["template"]["spec"]["containers"]
        agent = "mpiReplicaSpecs" in spec and name == "Worker"
        container["command"] = ["python3", "-c", SSH] if agent else command
        limits = {**container["resources"]["limits"], "cpu": "50m", "memory": "64Mi", "ephemeral-storage": "64Mi"}
        container["resources"] = {"requests": limits, "limits": limits}
    return changed


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_operators_states_are_read(cluster: Cluster, place: str, kind: str, case: str) -> None:
    phase, program, settings = CASES[case]
    plan = PodPlan(
        job=f"{case}",
        attempt=1,
        component="train-sft",
        image=cluster.base_image,
        folder="/workspace/attempts/1",
        settings=ClusterSettings.model_validate({"namespace": place, "resources": SMALL, **settings}),
        nodes=2,
    )
    for manifest in changed(KINDS[kind].manifests(plan), program, case == "deadline"):
        create(cluster, manifest)
    try:
        wait_for(
            f"phase {phase}",
            lambda: has_state(read(cluster, plan, kind)) and state(cluster, plan, kind).phase == phase,
            120,
            explain(cluster, plan),
        )
        found = read(cluster, plan, kind)
        if case == "deadline":
            assert "deadline" in KINDS[kind].state(found).message.lower()
        if os.environ.get("STEERLM_RECORD_STATES") == "1":
            record(RECORDED / f"{kind}-{case}.json", found)
    finally:
        withdraw(cluster, plan, kind)


def has_state(manifest: dict[str, Any]) -> bool:
    """Whether the operator has looked at the object. The Trainer says nothing of a job until its pods run."""
    return bool(manifest.get("status")) or manifest["kind"] == "TrainJob"


def record(path: Path, manifest: dict[str, Any]) -> None:
    """Write what a state is read from."""
    spec = manifest["spec"]
    kept = {"suspend": spec["suspend"]} if "suspend" in spec else {"runPolicy": spec["runPolicy"]}
    content = {"kind": manifest["kind"], "spec": kept, "status": manifest.get("status", {})}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
