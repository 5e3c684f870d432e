# SPDX-License-Identifier: Apache-2.0
"""The overlay of the lab on the cluster, and identities of its namespace as kubeconfig files."""

import json
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.conftest import Cluster, wait_for
from tests.conftest import ROOT

OVERLAYS = ROOT / "manifests" / "overlays"
NAMESPACE = "steerlm"
TAG = "test"
"""Of the images that the tests build."""
CLUSTER_SCOPED = {
    "ClusterQueue",
    "ClusterRole",
    "ClusterRoleBinding",
    "Namespace",
    "PersistentVolume",
    "ResourceFlavor",
    "WorkloadPriorityClass",
}
Json = dict[str, Any]


def image(cluster: Cluster, name: str) -> str:
    """The reference of an image that the tests have pushed into the cluster's registry."""
    return f"{cluster.registry}/{name}:{TAG}"


def overlay(cluster: Cluster, name: str, namespace: str = NAMESPACE) -> list[Json]:
    """The objects of an overlay; those of the namespace steerlm in another one."""
    found: list[Json] = list(yaml.safe_load_all(cluster.kubectl("kustomize", str(OVERLAYS / name))))
    for one in found:
        if one["kind"] not in CLUSTER_SCOPED:
            one["metadata"]["namespace"] = namespace
        for subject in one.get("subjects", []):
            subject["namespace"] = namespace
    return found


def install(cluster: Cluster) -> None:
    """Apply the overlay lab with the cluster's image of the reaper; wait until its workspace and queues are there."""
    objects = overlay(cluster, "lab")
    (reaper,) = [one for one in objects if one["kind"] == "CronJob"]
    reaper["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["image"] = image(cluster, "reaper")
    if cluster.volumes:
        (volume,) = [one for one in objects if one["kind"] == "PersistentVolume"]
        folder = Path(volume["spec"]["hostPath"]["path"])
        assert folder.parent == cluster.volumes
        folder.mkdir(exist_ok=True)
        folder.chmod(0o2777)
    cluster.apply(*objects)

    def ready() -> bool:
        claim = json.loads(cluster.kubectl("-n", NAMESPACE, "get", "pvc", "steerlm-workspace", "-o", "json"))
        queues = json.loads(cluster.kubectl("-n", NAMESPACE, "get", "localqueues", "-o", "json"))["items"]
        active = [
            condition
            for queue in queues
            for condition in queue.get("status", {}).get("conditions", [])
            if condition["type"] == "Active" and condition["status"] == "True"
        ]
        return claim["status"]["phase"] == "Bound" and len(active) == 2

    wait_for("workspace and queues", ready)


def kubeconfig_of(cluster: Cluster, account: str, namespace: str, path: Path) -> Path:
    """Write a kubeconfig with a token of a service account."""
    token = cluster.kubectl("-n", namespace, "create", "token", account, "--duration=1h").strip()
    return kubeconfig(cluster, token, path)


def kubeconfig(cluster: Cluster, token: str, path: Path) -> Path:
    """Write a kubeconfig with a token."""
    found = yaml.safe_load(cluster.kubectl("config", "view", "--raw", "--minify", "--flatten"))
    found["users"] = [{"name": "account", "user": {"token": token}}]
    found["contexts"][0]["context"]["user"] = "account"
    path.write_text(yaml.safe_dump(found))
    return path
