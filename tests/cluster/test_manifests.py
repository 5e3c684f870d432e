# SPDX-License-Identifier: Apache-2.0
"""The real API server, operators, queue and Pod Security admission on the manifests of jobs."""

import dataclasses
import secrets
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import yaml
from kubernetes.client import ApiException

from manifests.render import JOBS, NODES, SHIPPED, plans
from steerlm.jobs.kubernetes import labels
from steerlm.jobs.kubernetes.config import ClusterSettings, Fabric
from steerlm.jobs.kubernetes.kinds import KINDS
from steerlm.jobs.kubernetes.pod import POD_SECURITY, PodPlan
from tests.cluster.conftest import Cluster, wait_for, worker_account
from tests.cluster.job_objects import (
    create,
    explain,
    moved,
    pods,
    state,
    submit,
    until_running,
    withdraw,
    workspace,
)

QUEUE = "steerlm"
RENDERED = sorted(JOBS.glob("*.yaml"))
LEVELS = ("restricted", "baseline", "privileged")
QUOTAS = {"cpu": "4000", "memory": "40Ti", "ephemeral-storage": "4Ti", "nvidia.com/gpu": "256"}
FAKE_NODES = {
    "nodeLabels": {"type": "kwok"},
    "tolerations": [{"key": key, "operator": "Exists"} for key in ("kwok.x-k8s.io/node", "nvidia.com/gpu")],
}
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def queue(cluster: Cluster, namespace: str) -> Iterator[str]:
    """The namespace with a queue of 256 fake GPUs, as `manifests/components/kueue` makes it."""
    v1beta2 = {"apiVersion": "kueue.x-k8s.io/v1beta2"}
    resources = [{"name": name, "nominalQuota": amount} for name, amount in QUOTAS.items()]
    group = {"coveredResources": list(QUOTAS), "flavors": [{"name": namespace, "resources": resources}]}
    cluster.apply(
        {**v1beta2, "kind": "ResourceFlavor", "metadata": {"name": namespace}, "spec": FAKE_NODES},
        {
            **v1beta2,
            "kind": "ClusterQueue",
            "metadata": {"name": namespace},
            "spec": {"namespaceSelector": {}, "resourceGroups": [group]},
        },
        {
            **v1beta2,
            "kind": "LocalQueue",
            "metadata": {"name": QUEUE, "namespace": namespace},
            "spec": {"clusterQueue": namespace},
        },
    )
    with workspace(cluster, namespace):
        yield namespace
    cluster.kubectl("delete", "clusterqueue,resourceflavor", namespace, "--wait=false")


@pytest.mark.fast
@pytest.mark.parametrize("path", RENDERED, ids=lambda path: path.stem)
def test_the_api_server_takes_every_rendered_job(cluster: Cluster, namespace: str, path: Any) -> None:
    *runtimes, job = yaml.safe_load_all(path.read_text())
    for manifest in (*runtimes, job):
        manifest["metadata"]["namespace"] = namespace
    for runtime in runtimes:
        create(cluster, runtime)  # for real: a TrainJob whose runtime does not exist is refused
    created = create(cluster, job, dry_run=True)
    assert created["metadata"]["labels"][labels.QUEUE] == QUEUE


def templates(kind: str, plan: PodPlan) -> list[dict[str, Any]]:
    """The templates of all kinds of pods of a job, as they stand in its manifests."""
    job = KINDS[kind].manifests(plan)[0]["spec"]
    if kind == "trainjob":
        return [one["template"]["spec"]["template"] for one in job["template"]["spec"]["replicatedJobs"]]
    replicas = job["pytorchReplicaSpecs" if kind == "pytorchjob" else "mpiReplicaSpecs"]
    return [replica["template"] for replica in replicas.values()]


@pytest.fixture(scope="module")
def secured(cluster: Cluster) -> Iterator[dict[str, str]]:
    """A namespace for each level of Pod Security."""

    def accounts(namespace: str) -> list[Any]:
        return list(cluster.core.list_namespaced_service_account(namespace).items)

    names = {level: f"{level}-{secrets.token_hex(3)}" for level in LEVELS}
    for level, name in names.items():
        enforced = {"pod-security.kubernetes.io/enforce": level}
        cluster.core.create_namespace({"metadata": {"name": name, "labels": enforced}})
    for name in names.values():
        wait_for("service account", partial(accounts, name))
        cluster.apply(worker_account(name))
    yield names
    for name in names.values():
        cluster.core.delete_namespace(name)


@pytest.mark.fast
@pytest.mark.parametrize("fabric", POD_SECURITY)
@every_kind
def test_a_fabric_needs_the_level_that_the_documents_name(
    cluster: Cluster, secured: dict[str, str], kind: str, fabric: Fabric
) -> None:
    plan = PodPlan("job", 1, "train-sft", "example/train-sft:1", "/workspace/a", ClusterSettings(), nodes=2, devices=8)
    plan = moved(plan, "none", fabric=fabric)

    def allowed(namespace: str, template: dict[str, Any]) -> bool:
        pod = {"apiVersion": "v1", "kind": "Pod", **template, "metadata": {"name": "pod", **template["metadata"]}}
        try:
            cluster.core.create_namespaced_pod(namespace, pod, dry_run="All", field_validation="Strict")
            return True
        except ApiException as error:
            assert error.status == 403 and "violates PodSecurity" in error.body, error.body
            return False

    fits = [level for level in LEVELS if all(allowed(secured[level], pod) for pod in templates(kind, plan))]
    assert fits[0] == POD_SECURITY[fabric]
    assert fits == list(LEVELS[LEVELS.index(fits[0]) :]), "what a stricter level allows, a looser one does"


@every_kind
def test_the_operators_own_containers_fit_the_level_restricted(
    cluster: Cluster, secured: dict[str, str], kind: str
) -> None:
    """An init container that an operator adds is part of the pod which admission judges."""
    plan = PodPlan("train-sft", 1, "train-sft", "example/train-sft:1", "/w/a", ClusterSettings(), nodes=2)
    plan = moved(plan, secured["restricted"])
    submit(cluster, plan, kind)
    try:
        wait_for(
            "pods of both nodes",
            lambda: len(pods(cluster, plan, labels.NODE_ROLE)) == 2,
            30,
            lambda: cluster.kubectl("-n", plan.settings.namespace, "get", "events"),
        )
    finally:
        withdraw(cluster, plan, kind)


@every_kind
@pytest.mark.parametrize("recipe", SHIPPED)
def test_the_jobs_of_every_recipe_run_on_32_nodes(cluster: Cluster, queue: str, recipe: str, kind: str) -> None:
    for shipped in plans(recipe):
        plan = moved(shipped, queue)
        submit(cluster, plan, kind)
        try:
            nodes = until_running(cluster, plan, kind)
            assert len(nodes) == NODES
            assert len({pod.spec.node_name for pod in nodes}) == NODES
            assert {pod.metadata.labels[labels.COMPONENT] for pod in nodes} == {plan.component}
        finally:
            withdraw(cluster, plan, kind)


@every_kind
def test_a_job_of_33_nodes_starts_in_no_part(cluster: Cluster, queue: str, kind: str) -> None:
    plan = moved(dataclasses.replace(next(plans("helpsteer2-70b")), nodes=33), queue)
    submit(cluster, plan, kind)

    def refused() -> bool:
        events = cluster.core.list_namespaced_event(queue, field_selector="reason=Pending").items
        return any(plan.name in event.involved_object.name and "256" in event.message for event in events)

    try:
        wait_for("word of the queue", refused, 60, explain(cluster, plan))
        assert state(cluster, plan, kind).phase == "queued"
        assert not pods(cluster, plan)
    finally:
        withdraw(cluster, plan, kind)


@every_kind
def test_a_node_to_avoid_gets_no_pod(cluster: Cluster, queue: str, kind: str) -> None:
    plan = moved(dataclasses.replace(next(plans("helpsteer2-70b")), nodes=31, avoid=("gpu-05",)), queue)
    submit(cluster, plan, kind)
    try:
        used = {pod.spec.node_name for pod in until_running(cluster, plan, kind)}
        assert len(used) == 31
        assert "gpu-05" not in used
    finally:
        withdraw(cluster, plan, kind)
