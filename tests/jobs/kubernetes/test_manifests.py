# SPDX-License-Identifier: Apache-2.0
"""The manifests of each kind, as functions of a plan. What the real API server says of them is in tests/cluster."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from steerlm.jobs.kubernetes import labels
from steerlm.jobs.kubernetes.config import ClusterSettings
from steerlm.jobs.kubernetes.kinds import KINDS
from steerlm.jobs.kubernetes.pod import POD_SECURITY, PodPlan
from steerlm.jobs.registry import BACKENDS, LOCAL
from tests.conftest import ROOT

SETTINGS = ClusterSettings.model_validate(
    {
        "queue": "steerlm",
        "resources": {"extra": {"rdma/ib": "8"}},
        "placement": {
            "node_selector": {"nvidia.com/gpu.product": "H100"},
            "topology_key": "topology.kubernetes.io/rack",
            "priority_class": "usual",
            "restart_priority_class": "restart",
        },
    }
)
PLAN = PodPlan(
    job="train-reward-0a1b2c3d",
    attempt=1,
    component="train-reward",
    image="registry.example/train-reward:1",
    folder="/workspace/job/attempts/1",
    settings=SETTINGS,
    nodes=32,
    devices=8,
    environment={"CUDA_DEVICE_MAX_CONNECTIONS": "1"},
)
DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
SUFFIXES = {
    "pytorchjob": ("-worker-30",),
    "mpijob": ("-worker-31", "-launcher-x7k2p"),
    "trainjob": ("-node-0-31-x7k2p",),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def templates(kind: str, plan: PodPlan) -> dict[str, tuple[int, Any]]:
    """The pods of an attempt: how many, and their template, by their place in the manifest."""
    job = KINDS[kind].manifests(plan)[-1]["spec"]
    if kind == "trainjob":
        runtime = KINDS[kind].manifests(plan)[0]["spec"]
        (replicated,) = runtime["template"]["spec"]["replicatedJobs"]
        return {"node": (job["trainer"]["numNodes"], replicated["template"]["spec"]["template"])}
    replicas = job["pytorchReplicaSpecs" if kind == "pytorchjob" else "mpiReplicaSpecs"]
    return {name: (spec["replicas"], spec["template"]) for name, spec in replicas.items()}


def node_pod(kind: str, plan: PodPlan) -> Any:
    """The specification of the pod of one node."""
    found = templates(kind, plan)
    return found[{"pytorchjob": "Master", "mpijob": "Worker", "trainjob": "node"}[kind]][1]["spec"]


def test_every_kind_is_a_back_end() -> None:
    assert set(BACKENDS) == {LOCAL, *KINDS}


@every_kind
def test_the_names_of_all_pods_are_dns_labels(kind: str) -> None:
    plan = replace(PLAN, job="1" + 58 * "a" + "-b", attempt=1234)
    names = [manifest["metadata"]["name"] for manifest in KINDS[kind].manifests(plan)]
    for name in (*names, *(names[-1] + suffix for suffix in SUFFIXES[kind])):
        assert len(name) <= 63
        assert DNS_1035.fullmatch(name)


@every_kind
def test_a_node_is_a_pod(kind: str) -> None:
    for nodes in (1, 2, 32):
        pods = templates(kind, replace(PLAN, nodes=nodes))
        counts = {name: count for name, (count, _) in pods.items()}
        launchers = counts.pop("Launcher", 0)
        assert sum(counts.values()) == nodes
        assert launchers == (kind == "mpijob")
        assert all(counts.values()), "no replica of zero pods, which the operator refuses"


def test_master_and_workers_are_alike() -> None:
    pods = templates("pytorchjob", PLAN)
    assert pods["Master"][1] == pods["Worker"][1]
    assert (pods["Master"][0], pods["Worker"][0]) == (1, 31)


@every_kind
def test_the_operator_starts_one_process_per_node_and_restarts_nothing(kind: str) -> None:
    job = KINDS[kind].manifests(PLAN)[-1]["spec"]
    assert {"pytorchjob": "1", "mpijob": 1, "trainjob": 1}[kind] == (
        job.get("nprocPerNode") or job.get("slotsPerWorker") or job["trainer"]["numProcPerNode"]
    )
    assert "elasticPolicy" not in job
    text = json.dumps(KINDS[kind].manifests(PLAN))
    assert set(re.findall(r'"restartPolicy": "(\w+)"', text)) == {"Never"}
    assert set(re.findall(r'"backoffLimit": (\d+)', text)) == {"0"}


@every_kind
def test_a_pod_gets_all_that_it_requests_and_no_more(kind: str) -> None:
    amounts = node_pod(kind, PLAN)["containers"][0]["resources"]
    assert amounts["requests"] == amounts["limits"]
    assert amounts["limits"] == {
        "cpu": "96",
        "memory": "1000Gi",
        "ephemeral-storage": "50Gi",
        "nvidia.com/gpu": "8",
        "rdma/ib": "8",
    }


@every_kind
def test_without_a_gpu_resource_none_is_requested(kind: str) -> None:
    settings = ClusterSettings.model_validate({"resources": {"gpu": None}})
    assert set(node_pod(kind, replace(PLAN, settings=settings))["containers"][0]["resources"]["limits"]) == {
        "cpu",
        "memory",
        "ephemeral-storage",
    }


def test_the_launcher_of_an_mpijob_holds_no_gpu_and_goes_to_any_node() -> None:
    launcher = templates("mpijob", PLAN)["Launcher"][1]
    assert set(launcher["spec"]["containers"][0]["resources"]["limits"]) == {"cpu", "memory", "ephemeral-storage"}
    assert "nodeSelector" not in launcher["spec"]
    assert launcher["metadata"]["labels"][labels.ROLE] == labels.MPI_LAUNCHER_ROLE


@every_kind
def test_a_queue_admits_the_job_and_without_one_it_starts_at_once(kind: str) -> None:
    def suspended(plan: PodPlan) -> bool:
        spec = KINDS[kind].manifests(plan)[-1]["spec"]
        return bool(spec["suspend"] if kind == "trainjob" else spec["runPolicy"]["suspend"])

    free = replace(PLAN, settings=SETTINGS.model_copy(update={"queue": None}))
    assert suspended(PLAN)
    assert not suspended(free)
    assert KINDS[kind].manifests(PLAN)[-1]["metadata"]["labels"][labels.QUEUE] == "steerlm"
    assert "kueue" not in json.dumps(KINDS[kind].manifests(free)), "an annotation of Kueue would never be admitted"


@every_kind
def test_a_later_attempt_has_the_priority_of_restarts(kind: str) -> None:
    def priority(plan: PodPlan) -> str:
        return str(KINDS[kind].manifests(plan)[-1]["metadata"]["labels"][labels.WORKLOAD_PRIORITY])

    assert priority(PLAN) == "usual"
    assert priority(replace(PLAN, restart=True)) == "restart"
    free = replace(PLAN, settings=SETTINGS.model_copy(update={"queue": None}), restart=True)
    assert node_pod(kind, free)["priorityClassName"] == "restart", "without a queue, the scheduler's"


@every_kind
def test_the_pods_of_one_node_are_told_from_all_others_by_labels(kind: str) -> None:
    manifests = KINDS[kind].manifests(PLAN)
    own = {labels.JOB: PLAN.job, labels.ATTEMPT: "1"}
    assert own.items() <= manifests[-1]["metadata"]["labels"].items()
    for _, template in templates(kind, PLAN).values():
        found = dict(template["metadata"]["labels"])
        if kind == "trainjob":
            (patch,) = manifests[-1]["spec"]["runtimePatches"]
            (replicated,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
            found |= replicated["template"]["spec"]["template"]["metadata"]["labels"]
        assert own.items() <= found.items()
        assert labels.ROLE in found
    assert labels.selector(PLAN.job, 1) == ",".join(
        f"{key}={value}" for key, value in {labels.MANAGED_BY: "steerlm", **own}.items()
    )


@every_kind
def test_a_node_to_avoid_is_excluded_by_name(kind: str) -> None:
    plan = replace(PLAN, avoid=("node-7", "node-3"))
    fields = [{"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in ("node-3", "node-7")]
    assert json.dumps({"matchFields": fields}) in json.dumps(KINDS[kind].manifests(plan))


@pytest.mark.parametrize("fabric", ["none", "ib", "roce", "efa"])
@every_kind
def test_only_a_fabric_that_pins_memory_runs_as_root(kind: str, fabric: str) -> None:
    plan = replace(PLAN, settings=SETTINGS.model_copy(update={"fabric": fabric}))
    pod = node_pod(kind, plan)
    (container,) = pod["containers"]
    capabilities = container["securityContext"]["capabilities"]
    assert capabilities["drop"] == ["ALL"]
    if fabric == "none":
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] == 1000
        assert "add" not in capabilities
    else:
        assert pod["securityContext"]["runAsUser"] == 0
        assert "IPC_LOCK" in capabilities["add"]
    assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsGroup"] == 1000
    assert container["envFrom"] == [{"configMapRef": {"name": f"steerlm-fabric-{fabric}", "optional": True}}]


@every_kind
def test_a_pod_has_no_secret_and_an_account_without_its_token(kind: str) -> None:
    pod = node_pod(kind, PLAN)
    assert (pod["serviceAccountName"], pod["automountServiceAccountToken"]) == ("steerlm-worker", False)
    assert "secret" not in json.dumps(KINDS[kind].manifests(PLAN)).lower()
    own = replace(PLAN, settings=PLAN.settings.model_copy(update={"service_account": "gpu-jobs"}))
    text = json.dumps(KINDS[kind].manifests(own))
    assert '"serviceAccountName": "gpu-jobs"' in text and "steerlm-worker" not in text


@every_kind
def test_a_pod_gets_longer_to_stop_than_its_processes_to_save(kind: str) -> None:
    plan = replace(PLAN, grace_seconds=600)
    assert node_pod(kind, plan)["terminationGracePeriodSeconds"] > 600


@every_kind
def test_job_and_pods_have_the_deadline_of_the_profile(kind: str) -> None:
    job = KINDS[kind].manifests(PLAN)[-1]["spec"]
    deadlines = [job.get("runPolicy", job)["activeDeadlineSeconds"]]
    deadlines += [template["spec"]["activeDeadlineSeconds"] for _, template in templates(kind, PLAN).values()]
    assert set(deadlines) == {72 * 3600}


@every_kind
def test_the_workspace_is_mounted_where_the_profile_says(kind: str) -> None:
    settings = ClusterSettings.model_validate({"workspace": {"claim": "data", "path": "/shared/data"}})
    pod = node_pod(kind, replace(PLAN, settings=settings))
    (volume,) = [volume["name"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume]
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounts[volume] == "/shared/data"
    assert set(mounts) == {volume["name"] for volume in pod["volumes"]}


def test_attempts_share_a_runtime_and_images_do_not() -> None:
    def runtime(plan: PodPlan) -> Any:
        return KINDS["trainjob"].manifests(plan)[0]

    later = replace(
        PLAN, attempt=2, folder="/workspace/job/attempts/2", avoid=("node-7",), restart=True, hash="a", heartbeat="b"
    )
    assert runtime(later) == runtime(PLAN)
    assert runtime(replace(PLAN, job="another", nodes=2, environment={})) == runtime(PLAN)
    assert runtime(replace(PLAN, image="registry.example/train-reward:2"))["metadata"] != runtime(PLAN)["metadata"]


def test_master_and_workers_are_of_one_topology_domain() -> None:
    annotations = templates("pytorchjob", PLAN)["Worker"][1]["metadata"]["annotations"]
    assert annotations[labels.PREFERRED_TOPOLOGY] == "topology.kubernetes.io/rack"
    assert labels.TOPOLOGY_GROUP in annotations
    alone = templates("pytorchjob", replace(PLAN, nodes=1))["Master"][1]["metadata"]["annotations"]
    assert labels.TOPOLOGY_GROUP not in alone, "Kueue refuses a group of one"


@every_kind
def test_the_owner_and_the_records_of_the_launcher_are_in_the_metadata(kind: str) -> None:
    owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "w", "uid": "u"}
    plan = replace(PLAN, owner=owner, hash="abc", heartbeat="2026-11-27T04:00:00Z")
    metadata = KINDS[kind].manifests(plan)[-1]["metadata"]
    assert metadata["ownerReferences"] == [owner]
    assert metadata["annotations"] == {labels.HASH: "abc", labels.HEARTBEAT: "2026-11-27T04:00:00Z"}
    assert "annotations" not in KINDS[kind].manifests(PLAN)[-1]["metadata"]


@every_kind
def test_making_manifests_changes_nothing(kind: str) -> None:
    settings = SETTINGS.model_copy(update={"fabric": "ib"})
    plan = replace(PLAN, settings=settings)
    first = json.dumps(KINDS[kind].manifests(plan))
    assert json.dumps(KINDS[kind].manifests(plan)) == first


def test_the_documents_name_the_level_of_each_fabric() -> None:
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert dict(re.findall(r"^- `(\w+)`: level `(\w+)`$", text, re.MULTILINE)) == POD_SECURITY
