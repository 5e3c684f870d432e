# SPDX-License-Identifier: Apache-2.0
"""The manifest of a PyTorchJob (kubeflow.org/v1) and its state.

The operator gives each pod its node rank and the address of the master. It restarts single pods only, which leaves the
others waiting for a lost peer, so nothing restarts here: the launcher starts the next attempt.
"""

from collections.abc import Mapping
from typing import Any

from steerlm.jobs.kubernetes import labels
from steerlm.jobs.kubernetes.condition import ObjectState, state, true_conditions
from steerlm.jobs.kubernetes.pod import KEEP_SECONDS, Manifest, PodPlan, metadata, pod_template

CONTAINER = "pytorch"
"""The operator looks for a container of this name."""
MASTER_PORT = 23456


def manifests(plan: PodPlan) -> list[Manifest]:
    """Return the PyTorchJob of an attempt: one master, and a worker for each further node."""
    template = pod_template(plan, CONTAINER, "pod_entry")
    template["spec"]["containers"][0]["ports"] = [{"name": "pytorchjob-port", "containerPort": MASTER_PORT}]
    if plan.nodes > 1 and labels.PREFERRED_TOPOLOGY in template["metadata"]["annotations"]:
        template["metadata"]["annotations"][labels.TOPOLOGY_GROUP] = "nodes"  # the master is where its workers are
    replicas = {"Master": 1, "Worker": plan.nodes - 1}
    return [
        {
            "apiVersion": "kubeflow.org/v1",
            "kind": "PyTorchJob",
            "metadata": metadata(plan),
            "spec": {
                "nprocPerNode": "1",  # the entry starts the node's processes
                "runPolicy": run_policy(plan),
                "pytorchReplicaSpecs": {
                    name: {"replicas": count, "restartPolicy": "Never", "template": template}
                    for name, count in replicas.items()
                    if count
                },
            },
        }
    ]


def run_policy(plan: PodPlan) -> Manifest:
    """Return the `runPolicy` that a PyTorchJob and an MPIJob have in common.

    When a job has ended, pods that still run are deleted: they hold GPUs. Failed pods stay for their message.
    """
    return {
        "cleanPodPolicy": "Running",
        "backoffLimit": 0,
        "activeDeadlineSeconds": plan.deadline_seconds,
        "ttlSecondsAfterFinished": KEEP_SECONDS,
        "suspend": plan.settings.queue is not None,  # the queue admits a job by setting it to false
    }


def object_state(manifest: Mapping[str, Any]) -> ObjectState:
    """Return the state of a PyTorchJob or an MPIJob, whose conditions are the same."""
    conditions = true_conditions(manifest)
    if "Failed" in conditions:
        return state("failed", conditions["Failed"])
    if "Succeeded" in conditions:
        return state("succeeded", conditions["Succeeded"])
    if manifest["spec"]["runPolicy"].get("suspend"):
        return state("queued", conditions.get("Suspended", {}))
    if "Running" in conditions:
        return state("running", conditions["Running"])
    return state("created", conditions.get("Created", {}))
