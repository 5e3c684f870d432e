# SPDX-License-Identifier: Apache-2.0
"""What `steerlm doctor` reads from the API server: versions, operators, queue, claim, nodes, settings of the fabric.

Each check returns findings and changes nothing. What only a pod can see is in `probe.py`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from steerlm.jobs.config import JobSettings
from steerlm.jobs.finding import Finding, right, wrong
from steerlm.jobs.kubernetes.client import Cluster, ClusterError, Json
from steerlm.jobs.kubernetes.config import ClusterSettings
from steerlm.jobs.kubernetes.kinds import KINDS
from steerlm.jobs.kubernetes.permissions import USER, Access, single
from steerlm.jobs.kubernetes.pod import POD_SECURITY, resources
from steerlm.jobs.kubernetes.pods import node_ready
from steerlm.jobs.kubernetes.quantity import amount

OLDEST = (1, 33)
"""The oldest Kubernetes that the operators are tested on."""
APPLY = "kubectl apply --server-side -k"
MANIFESTS = "kubectl apply -k manifests/overlays/kueue"
LEVELS = ("privileged", "baseline", "restricted")
"""Pod Security levels from the one that allows most to the one that allows least."""


@dataclass(frozen=True, slots=True)
class KindOperator:
    """The operator of a kind: its Deployment, where to get it, and Kueue's name of the integration."""

    deployments: tuple[str, ...]
    install: str
    framework: str


OPERATORS: Mapping[str, KindOperator] = {
    "pytorchjob": KindOperator(
        ("training-operator",),
        f"{APPLY} 'github.com/kubeflow/trainer.git/manifests/overlays/standalone?ref=v1.9.4'",
        "kubeflow.org/pytorchjob",
    ),
    "mpijob": KindOperator(
        ("mpi-operator",),
        f"{APPLY} 'github.com/kubeflow/mpi-operator.git/manifests/overlays/standalone?ref=v0.8.2'",
        "kubeflow.org/mpijob",
    ),
    "trainjob": KindOperator(
        ("kubeflow-trainer-controller-manager", "jobset-controller-manager"),
        f"{APPLY} 'github.com/kubeflow/trainer.git/manifests/overlays/manager?ref=v2.3.0'",
        "trainer.kubeflow.org/trainjob",
    ),
}


@dataclass(frozen=True, slots=True)
class ClusterCheckup:
    """What is checked: a profile's back end and settings, and the largest job that it starts.

    Attributes:
        backend: A key of `KINDS`.
        nodes: Nodes of the largest job.
        devices: Processes, and GPUs, of a node.
    """

    backend: str
    settings: ClusterSettings
    jobs: JobSettings
    nodes: int
    devices: int


def check_version(cluster: Cluster) -> Iterator[Finding]:
    """Check the version of Kubernetes. Raises `ClusterError` if the API server cannot be reached."""
    version = cluster.get("/version")
    numbers = tuple(int(re.sub(r"\D", "", version[key])) for key in ("major", "minor"))
    text = f"Kubernetes {version['gitVersion']}"
    if numbers < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        yield wrong("cluster", f"{text}; {oldest} or later was expected", "upgrade the cluster")
    else:
        yield right("cluster", text)


def check_kind(cluster: Cluster, checkup: ClusterCheckup) -> Iterator[Finding]:
    """Check that the kind of the back end is served in the version that the manifests use, and its operator runs."""
    kind, operator = KINDS[checkup.backend], OPERATORS[checkup.backend]
    group = cluster.find(f"/apis/{kind.group}")
    served = [version["version"] for version in group["versions"]] if group else []
    names = {}
    if kind.version in served:
        found = cluster.get(f"/apis/{kind.group}/{kind.version}")["resources"]
        names = {resource["name"]: resource for resource in found}
    if kind.plural not in names:
        shown = ", ".join(served) or "none"
        text = f"{kind.plural}.{kind.group} is not served in version {kind.version} (versions of the group: {shown})"
        yield wrong(kind.name, text, operator.install)
        return
    yield right(kind.name, f"{kind.plural}.{kind.group}/{kind.version} is served")
    yield from _check_deployments(cluster, kind.name, operator)


def _check_deployments(cluster: Cluster, subject: str, operator: KindOperator) -> Iterator[Finding]:
    try:
        deployments = cluster.get("/apis/apps/v1/deployments")["items"]
    except ClusterError as error:
        if error.status == 403:
            yield right(subject, "its operator's state is not visible to you")
            return
        raise
    by_name = {deployment["metadata"]["name"]: deployment for deployment in deployments}
    for name in operator.deployments:
        deployment = by_name.get(name)
        if deployment is None:
            yield wrong(subject, f"no Deployment {name}: nothing acts on these objects", operator.install)
            continue
        namespace = deployment["metadata"]["namespace"]
        image = deployment["spec"]["template"]["spec"]["containers"][0]["image"].rpartition("/")[2]
        if deployment["status"].get("readyReplicas"):
            yield right(subject, f"operator {image} runs in {namespace}")
        else:
            text = f"operator {image} in {namespace} is not ready"
            yield wrong(subject, text, f"kubectl -n {namespace} describe deployment {name}")


def check_namespace(cluster: Cluster, checkup: ClusterCheckup) -> Iterator[Finding]:
    """Check that the namespace exists and admits the pods of the fabric."""
    settings = checkup.settings
    namespace = cluster.find(f"/api/v1/namespaces/{settings.namespace}")
    if namespace is None:
        yield wrong("namespace", f"there is no namespace {settings.namespace}", MANIFESTS)
        return
    label = "pod-security.kubernetes.io/enforce"
    enforced = (namespace["metadata"].get("labels") or {}).get(label, "privileged")
    needed = POD_SECURITY[settings.fabric]
    if LEVELS.index(enforced) > LEVELS.index(needed):
        yield wrong(
            "namespace",
            f"{settings.namespace} enforces the level {enforced}; pods of the fabric {settings.fabric} need {needed}",
            f"kubectl label --overwrite namespace {settings.namespace} {label}={needed}",
        )
    else:
        yield right("namespace", f"{settings.namespace}, Pod Security level {enforced}")


def check_own_access(cluster: Cluster, checkup: ClusterCheckup) -> Iterator[Finding]:
    """Check what the caller may do in the namespace. The launcher's rights are checked by `probe.py`, in its pod."""
    namespace = checkup.settings.namespace
    missing = [str(access) for access in single(USER) if not allowed(cluster, access, namespace)]
    if missing:
        command = f"kubectl -n {namespace} create rolebinding NAME --clusterrole=edit --user=YOU"
        yield wrong("access", f"you may not {', '.join(missing)} in {namespace}", command)
    else:
        yield right("access", f"you may submit, follow and cancel runs in {namespace}")


def allowed(cluster: Cluster, access: Access, namespace: str | None) -> bool:
    """Ask the API server whether the caller may do something; `namespace`: None for objects that have none."""
    attributes = {
        "group": access.group,
        "resource": access.resource,
        "subresource": access.subresource,
        "verb": access.verb,
        "namespace": namespace or "",
    }
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    answer = cluster.create("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
    return bool(answer["status"]["allowed"])


def check_claim(cluster: Cluster, checkup: ClusterCheckup) -> Iterator[Finding]:
    """Check that the workspace's claim is bound and may be mounted on many nodes."""
    settings = checkup.settings
    name = settings.workspace.claim
    claim = cluster.find(f"/api/v1/namespaces/{settings.namespace}/persistentvolumeclaims/{name}")
    describe = f"kubectl -n {settings.namespace} describe persistentvolumeclaim {name}"
    if claim is None:
        yield wrong("workspace", f"there is no claim {name}", MANIFESTS)
    elif claim["status"]["phase"] != "Bound":
        yield wrong("workspace", f"the claim {name} is {claim['status']['phase']}, not Bound", describe)
    elif "ReadWriteMany" not in claim["status"].get("accessModes", []):
        modes = ", ".join(claim["status"].get("accessModes", []))
        text = f"the claim {name} allows {modes}; pods on many nodes need ReadWriteMany"
        yield wrong("workspace", text, "choose a storage class of a shared file system: manifests/base/workspace.yaml")
    else:
        yield right("workspace", f"claim {name}, {claim['status']['capacity']['storage']}, ReadWriteMany")


def check_fabric(cluster: Cluster, checkup: ClusterCheckup) -> Iterator[Finding]:
    """Check that the ConfigMap with NCCL's settings is there."""
    name = f"steerlm-fabric-{checkup.settings.fabric}"
    config = cluster.find(f"/api/v1/namespaces/{checkup.settings.namespace}/configmaps/{name}")
    if config is None:
        yield wrong("fabric", f"there is no ConfigMap {name}", MANIFESTS)
    else:
        values = ", ".join(f"{key}={value}" for key, value in sorted((config.get("data") or {}).items()))
        yield right("fabric", f"{name}: {values}")


def check_nodes(cluster: Cluster, checkup: ClusterCheckup) -> Iterator[Finding]:
    """Check that the nodes, ready and open to the pods, have room for those of the largest job.

    Its pods are spread over the nodes, and share nodes if there are too few.
    """
    wanted = {name: amount(value) for name, value in resources(checkup.settings, checkup.devices).items()}
    try:
        nodes = cluster.get("/api/v1/nodes")["items"]
    except ClusterError as error:
        if error.status == 403:
            yield right("nodes", "not visible to you")
            return
        raise
    usable = [node for node in nodes if _admits(node, checkup.settings)]
    fitting = [node for node in usable if not _short(node, wanted)]
    gpu = checkup.settings.resources.gpu
    each = f"{checkup.devices} {gpu}" if gpu else f"{checkup.settings.resources.cpu} CPUs"
    if len(fitting) >= checkup.nodes:
        yield right("nodes", f"{len(fitting)} nodes can run a pod of {each}; the largest job has {checkup.nodes}")
        return
    if (room := sum(_room(node, wanted) for node in fitting)) >= checkup.nodes:
        number = f"{len(fitting)} node{'s' if len(fitting) > 1 else ''}"
        shared = f"{number} can run {room} pods of {each}; the largest job has {checkup.nodes}, which share nodes"
        yield right("nodes", shared)
        return
    shortage: dict[str, int] = {}
    for node in usable:
        for name in _short(node, wanted):
            shortage[name] = shortage.get(name, 0) + 1
    why = ", ".join(f"{count} have less {name}" for name, count in sorted(shortage.items()))
    text = (
        f"{len(fitting)} of {len(nodes)} nodes can run a pod of {each}, the largest job has {checkup.nodes} "
        f"({len(nodes) - len(usable)} are not ready, or kept free by a taint or the node selector"
        + (f"; {why}" if why else "")
        + ")"
    )
    yield wrong("nodes", text, "kubectl describe nodes; or lower cluster.resources or the layouts of the profile")


def _admits(node: Json, settings: ClusterSettings) -> bool:
    """Whether a node is ready, matches the node selector, and has no taint that the pods do not tolerate."""
    labels = node["metadata"].get("labels") or {}
    selected = all(labels.get(key) == value for key, value in settings.placement.node_selector.items())
    taints = node["spec"].get("taints", [])
    open_ = all(
        taint["effect"] == "PreferNoSchedule"
        or any(_tolerates(toleration, taint) for toleration in settings.placement.tolerations)
        for taint in taints
    )
    return node_ready(node) and selected and open_ and not node["spec"].get("unschedulable", False)


def _tolerates(toleration: Mapping[str, str], taint: Mapping[str, str]) -> bool:
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if toleration.get("operator", "Equal") == "Exists":
        return toleration.get("key") in (None, "", taint["key"])
    return toleration.get("key") == taint["key"] and toleration.get("value", "") == taint.get("value", "")


def _short(node: Json, wanted: Mapping[str, float]) -> list[str]:
    """Return the resources of which a node has less than one pod asks."""
    return [name for name, count in _pods(node, wanted).items() if count < 1]


def _room(node: Json, wanted: Mapping[str, float]) -> int:
    """Return how many such pods a node has room for."""
    return int(min(_pods(node, wanted).values()))


def _pods(node: Json, wanted: Mapping[str, float]) -> dict[str, float]:
    """Return by resource for how many pods a node has enough of it."""
    has = node["status"].get("allocatable", {})
    counted = [
        name for name in wanted if wanted[name] and (name in has or "/" in name)
    ]  # some nodes name no ephemeral storage
    return {name: amount(has.get(name, "0")) / wanted[name] for name in counted}
