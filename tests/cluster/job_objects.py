# SPDX-License-Identifier: Apache-2.0
"""Job objects on the cluster: create them, read their state and pods, delete them; and a workspace for their pods."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kubernetes.client import ApiException

from steerlm.jobs.kubernetes import labels
from steerlm.jobs.kubernetes.condition import ObjectState
from steerlm.jobs.kubernetes.kinds import KINDS
from steerlm.jobs.kubernetes.pod import PodPlan
from tests.cluster.conftest import Cluster, wait_for

PLURALS = {kind.name: kind.plural for kind in KINDS.values()} | {"TrainingRuntime": "trainingruntimes"}


def create(cluster: Cluster, manifest: dict[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
    """Create an object; the API server refuses unknown fields. A runtime that is there already is left alone."""
    group, version = manifest["apiVersion"].split("/")
    try:
        created: dict[str, Any] = cluster.custom.create_namespaced_custom_object(
            group,
            version,
            manifest["metadata"]["namespace"],
            PLURALS[manifest["kind"]],
            manifest,
            field_validation="Strict",
            **({"dry_run": "All"} if dry_run else {}),
        )
        return created
    except ApiException as error:
        if error.status == 409 and manifest["kind"] == "TrainingRuntime":
            return manifest
        raise AssertionError(error.body) from None


def read(cluster: Cluster, plan: PodPlan, kind: str) -> dict[str, Any]:
    """The job object as the API server has it."""
    found = KINDS[kind]
    return dict(
        cluster.custom.get_namespaced_custom_object(
            found.group, found.version, plan.settings.namespace, found.plural, plan.name
        )
    )


def state(cluster: Cluster, plan: PodPlan, kind: str) -> ObjectState:
    return KINDS[kind].state(read(cluster, plan, kind))


def submit(cluster: Cluster, plan: PodPlan, kind: str) -> None:
    for manifest in KINDS[kind].manifests(plan):
        create(cluster, manifest)


def withdraw(cluster: Cluster, plan: PodPlan, kind: str) -> None:
    """Delete a job, and wait for its end and that of its pods, whose resources the next one needs."""
    found = KINDS[kind]
    cluster.custom.delete_namespaced_custom_object(
        found.group, found.version, plan.settings.namespace, found.plural, plan.name, propagation_policy="Foreground"
    )

    def gone() -> bool:
        try:
            read(cluster, plan, kind)
        except ApiException as error:
            return error.status == 404 and not pods(cluster, plan)
        return False

    wait_for(f"end of {plan.name}", gone, 120)


def pods(cluster: Cluster, plan: PodPlan, role: str | None = None) -> list[Any]:
    selector = labels.selector(plan.job, plan.attempt, role)
    return list(cluster.core.list_namespaced_pod(plan.settings.namespace, label_selector=selector).items)


def moved(plan: PodPlan, namespace: str, **changes: Any) -> PodPlan:
    """The plan in another namespace."""
    return dataclasses.replace(plan, settings=plan.settings.model_copy(update={"namespace": namespace, **changes}))


def until_running(cluster: Cluster, plan: PodPlan, kind: str) -> list[Any]:
    """Wait for the job and the pods of all its nodes to run; return these. A PyTorchJob runs when its master does."""

    def running() -> list[Any]:
        nodes = pods(cluster, plan, labels.NODE_ROLE)
        ready = len(nodes) == plan.nodes and all(pod.status.phase == "Running" for pod in nodes)
        return nodes if ready and state(cluster, plan, kind).phase == "running" else []

    return wait_for("running job", running, 120, explain(cluster, plan))


def explain(cluster: Cluster, plan: PodPlan) -> Callable[[], str]:
    return lambda: cluster.kubectl("-n", plan.settings.namespace, "get", "events,pods")


@contextmanager
def workspace(cluster: Cluster, namespace: str) -> Iterator[None]:
    """A volume that the namespace's pods find as the claim of a profile."""
    shape = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    volume = {
        **shape,
        "capacity": {"storage": "1Gi"},
        "claimRef": {"namespace": namespace, "name": "steerlm-workspace"},
        "hostPath": {"path": f"{cluster.volumes or '/tmp'}/{namespace}", "type": "DirectoryOrCreate"},
    }
    claim = {**shape, "resources": {"requests": {"storage": "1Gi"}}, "volumeName": namespace}
    cluster.apply(
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": namespace}, "spec": volume},
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "steerlm-workspace", "namespace": namespace},
            "spec": claim,
        },
    )
    yield
    cluster.kubectl("delete", "persistentvolume", namespace, "--wait=false")
