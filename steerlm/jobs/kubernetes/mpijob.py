# SPDX-License-Identifier: Apache-2.0
"""The manifest of an MPIJob (kubeflow.org/v2beta1). Its conditions are those of a PyTorchJob.

Each node runs an ssh server, as the user of the job, on a port that needs no root. The launcher, which computes
nothing, starts by mpirun one agent on each node when all are ready; the agent is the command that the pods of a
PyTorchJob run.
"""

from typing import Any

from steerlm.jobs.kubernetes import labels
from steerlm.jobs.kubernetes.pod import Manifest, PodPlan, metadata, pod_template
from steerlm.jobs.kubernetes.pytorchjob import run_policy
from steerlm.jobs.kubernetes.ssh import SSH_KEYS, SSH_PORT

CONTAINER = "node"
LAUNCHER_CONTAINER = "mpi-launcher"
LAUNCHER_RESOURCES = {"cpu": "500m", "memory": "2Gi", "ephemeral-storage": "1Gi"}
SSH_CAPABILITIES = ("SETGID", "SETUID", "SYS_CHROOT")
"""What an ssh server that runs as root needs to separate its privileges; one of another user cannot use them."""


def manifests(plan: PodPlan) -> list[Manifest]:
    """Return the MPIJob of an attempt."""
    return [
        {
            "apiVersion": "kubeflow.org/v2beta1",
            "kind": "MPIJob",
            "metadata": metadata(plan),
            "spec": {
                "slotsPerWorker": 1,  # one agent, which starts the node's processes
                "runPolicy": run_policy(plan),
                "sshAuthMountPath": SSH_KEYS,
                "launcherCreationPolicy": "WaitForWorkersReady",
                "mpiImplementation": "OpenMPI",
                "mpiReplicaSpecs": {
                    "Launcher": {"replicas": 1, "restartPolicy": "Never", "template": _launcher(plan)},
                    "Worker": {"replicas": plan.nodes, "restartPolicy": "Never", "template": _node(plan)},
                },
            },
        }
    ]


def _node(plan: PodPlan) -> Manifest:
    template = pod_template(plan, CONTAINER, "mpi_worker")
    container = template["spec"]["containers"][0]
    container["ports"] = [{"name": "ssh", "containerPort": SSH_PORT}]
    container["readinessProbe"] = {"tcpSocket": {"port": SSH_PORT}, "periodSeconds": 2}
    capabilities = container["securityContext"]["capabilities"]
    if "add" in capabilities:
        capabilities["add"] = sorted([*capabilities["add"], *SSH_CAPABILITIES])
    return template


def _launcher(plan: PodPlan) -> Manifest:
    """Return the launcher's pod: without GPU, on any node, as the same user, since ssh logs in as that."""
    template = pod_template(plan, LAUNCHER_CONTAINER, "mpi_launcher", labels.MPI_LAUNCHER_ROLE)
    spec: dict[str, Any] = template["spec"]
    spec.pop("nodeSelector", None)
    spec.pop("topologySpreadConstraints", None)
    container = spec["containers"][0]
    container["resources"] = {"requests": LAUNCHER_RESOURCES, "limits": LAUNCHER_RESOURCES}
    container["securityContext"]["capabilities"].pop("add", None)
    shared_memory = next(volume for volume in spec["volumes"] if volume["name"] == "shared-memory")
    shared_memory["emptyDir"]["sizeLimit"] = "64Mi"  # of its own small memory
    return template
