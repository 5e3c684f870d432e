# SPDX-License-Identifier: Apache-2.0
"""The pod of one node of a job: one template, from which each kind of job object makes all its pods.

Every pod of a job is alike, so that a setting cannot hold for one pod and be forgotten for another. It meets the Pod
Security Standard `restricted`, unless the fabric needs root (`POD_SECURITY`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from steerlm import attempt
from steerlm.jobs.kubernetes import labels, scratch
from steerlm.jobs.kubernetes.attempts import object_name
from steerlm.jobs.kubernetes.config import ClusterSettings, Fabric

Manifest = dict[str, Any]
"""A Kubernetes object, or part of one, as its JSON."""
PodSecurityLevel = Literal["privileged", "baseline", "restricted"]

SCRATCH = "/scratch"
"""Where the pod's own volume is mounted: home folder and caches. Nothing there may be needed by another pod."""
TEMPORARY = "/tmp"
SHARED_MEMORY = "/dev/shm"
TERMINATION_LOG = "/dev/termination-log"
GRACE_MARGIN_SECONDS = 60
"""A pod's grace period beyond the time its processes get to save: the entry writes its records after them."""
KEEP_SECONDS = 24 * 3600
"""How long an ended job object and its failed pods stay, for a look with kubectl; their logs are in the workspace."""

POD_SECURITY: Mapping[Fabric, PodSecurityLevel] = MappingProxyType(
    {"none": "restricted", "ib": "privileged", "roce": "privileged", "efa": "privileged"}
)
"""The Pod Security Standard that a namespace must allow for jobs on each fabric.

RDMA pins memory beyond the usual limit. The kernel's capability for that, IPC_LOCK, is refused by `baseline`, and only
root gets the capabilities that a container adds: jobs on these fabrics run as root, with the group of all other pods.
"""


@dataclass(frozen=True, slots=True)
class PodPlan:
    """One attempt of a job: everything that its manifests depend on.

    Attributes:
        job: Name of the job.
        attempt: Its number, from 1.
        component: Name of the image, such as `train-reward`.
        image: Reference of the image.
        folder: The attempt's folder in the workspace.
        settings: The profile's section `cluster`.
        nodes: Number of pods.
        devices: Processes, and GPUs, of each.
        grace_seconds: Time that the processes get to save.
        environment: Further variables of the container.
        avoid: Names of nodes to keep away from.
        restart: The job has run before: it gets the profile's priority class for restarts.
        hash: For the annotation `labels.HASH`.
        heartbeat: For the annotation `labels.HEARTBEAT`, an RFC 3339 time.
        owner: An ownerReference, if something else than the launcher's pod owns the job, such as a workflow.
    """

    job: str
    attempt: int
    component: str
    image: str
    folder: str
    settings: ClusterSettings
    nodes: int = 1
    devices: int = 1
    grace_seconds: float = 300.0
    environment: Mapping[str, str] = field(default_factory=dict)
    avoid: tuple[str, ...] = ()
    restart: bool = False
    hash: str = ""
    heartbeat: str = ""
    owner: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """Name of the job object."""
        return object_name(self.job, self.attempt)

    @property
    def deadline_seconds(self) -> int:
        """Longest run of the job, whatever happens to its launcher."""
        return self.settings.deadline_hours * 3600


def metadata(plan: PodPlan) -> Manifest:
    """Return the metadata of an attempt's job object."""
    object_labels = job_labels(plan)
    if plan.settings.queue:
        object_labels[labels.QUEUE] = plan.settings.queue
        if priority := _priority(plan):
            object_labels[labels.WORKLOAD_PRIORITY] = priority
    annotations = {labels.HASH: plan.hash, labels.HEARTBEAT: plan.heartbeat}
    return _filled(
        name=plan.name,
        namespace=plan.settings.namespace,
        labels=object_labels,
        annotations={name: value for name, value in annotations.items() if value},
        ownerReferences=[dict(plan.owner)] if plan.owner else [],
    )


def _priority(plan: PodPlan) -> str | None:
    """Return the priority class: of Kueue if a queue admits the job, else of Kubernetes."""
    placement = plan.settings.placement
    return (placement.restart_priority_class if plan.restart else None) or placement.priority_class


def job_labels(plan: PodPlan) -> dict[str, str]:
    """Return the labels that a job object and its pods share."""
    return {
        labels.MANAGED_BY: labels.STEERLM,
        labels.COMPONENT: plan.component,
        labels.JOB: plan.job,
        labels.ATTEMPT: str(plan.attempt),
    }


def pod_template(plan: PodPlan, container: str, module: str, role: str = labels.NODE_ROLE) -> Manifest:
    """Return the template of the pod of one node, whose one container runs `python -m MODULE FOLDER`.

    Args:
        plan: The attempt.
        container: Name of the container; operators look for one of a certain name.
        module: A module of `steerlm.jobs.kubernetes`.
        role: Value of the label `labels.ROLE`.
    """
    return {"metadata": _pod_metadata(plan, role), "spec": _pod_spec(plan, container, module)}


def _pod_metadata(plan: PodPlan, role: str) -> Manifest:
    annotations = {
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
        "sidecar.istio.io/inject": "false",  # a proxy that never ends keeps a job from ending
    }
    topology = plan.settings.placement.topology_key
    if topology and plan.settings.queue and role == labels.NODE_ROLE:
        annotations[labels.PREFERRED_TOPOLOGY] = topology
    return {
        "labels": {**job_labels(plan), labels.ROLE: role, "sidecar.istio.io/inject": "false"},
        "annotations": annotations,
    }


def _pod_spec(plan: PodPlan, container: str, module: str) -> Manifest:
    settings, placement = plan.settings, plan.settings.placement
    return _filled(
        containers=[_container(plan, container, module)],
        volumes=[
            {"name": "workspace", "persistentVolumeClaim": {"claimName": settings.workspace.claim}},
            {"name": "scratch", "emptyDir": {}},
            {"name": "temporary", "emptyDir": {}},
            {
                "name": "shared-memory",
                "emptyDir": {"medium": "Memory", "sizeLimit": settings.resources.shared_memory},
            },
        ],
        securityContext=pod_security(settings, root=needs_root(settings)),
        # training-operator looks at a job's own deadline only when the job changes, and a hanging one does not.
        activeDeadlineSeconds=plan.deadline_seconds,
        terminationGracePeriodSeconds=round(plan.grace_seconds) + GRACE_MARGIN_SECONDS,
        nodeSelector=dict(placement.node_selector),
        tolerations=[dict(toleration) for toleration in placement.tolerations],
        affinity=_avoiding(plan.avoid),
        topologySpreadConstraints=_spread(plan),
        priorityClassName=None if settings.queue else _priority(plan),
        imagePullSecrets=[{"name": name} for name in settings.images.pull_secrets],
        serviceAccountName=settings.service_account,
        automountServiceAccountToken=False,
        enableServiceLinks=False,
    )


def _container(plan: PodPlan, name: str, module: str) -> Manifest:
    settings = plan.settings
    amounts = resources(settings, plan.devices)
    return {
        "name": name,
        "image": plan.image,
        "imagePullPolicy": settings.images.pull_policy,
        "command": ["python", "-m", f"steerlm.jobs.kubernetes.{module}", plan.folder],
        "env": [
            *({"name": key, "value": value} for key, value in _environment(plan).items()),
            {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        ],
        "envFrom": [{"configMapRef": {"name": f"steerlm-fabric-{settings.fabric}", "optional": True}}],
        "resources": {"requests": amounts, "limits": amounts},
        "volumeMounts": [
            {"name": "workspace", "mountPath": str(settings.workspace.path)},
            {"name": "scratch", "mountPath": SCRATCH},
            {"name": "temporary", "mountPath": TEMPORARY},
            {"name": "shared-memory", "mountPath": SHARED_MEMORY},
        ],
        "securityContext": container_security(pins_memory=needs_root(settings)),
        "terminationMessagePath": TERMINATION_LOG,
        "terminationMessagePolicy": "File",
    }


def resources(settings: ClusterSettings, devices: int) -> dict[str, str]:
    """Return what the pod of one node requests, which is also its limit: Kubernetes evicts such pods last."""
    wanted = settings.resources
    return {
        "cpu": wanted.cpu,
        "memory": wanted.memory,
        "ephemeral-storage": wanted.ephemeral_storage,
        **({wanted.gpu: str(devices)} if wanted.gpu else {}),
        **wanted.extra,
    }


def _environment(plan: PodPlan) -> dict[str, str]:
    """Return the container's variables; the entry sets home and caches, which are in the scratch folder."""
    return {attempt.FOLDER: plan.folder, scratch.SCRATCH: SCRATCH, "PYTHONUNBUFFERED": "1", **plan.environment}


def needs_root(settings: ClusterSettings) -> bool:
    """Return whether the pods of jobs run as root, as the fabric asks."""
    return POD_SECURITY[settings.fabric] == "privileged"


def pod_security(settings: ClusterSettings, *, root: bool = False) -> Manifest:
    """Return the security context of a pod; that of root has the group of all other pods."""
    return {
        "runAsNonRoot": not root,
        "runAsUser": 0 if root else settings.uid,
        "runAsGroup": settings.gid,
        "fsGroup": settings.gid,
        "fsGroupChangePolicy": "OnRootMismatch",  # not a walk through the whole workspace at every start
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security(*, pins_memory: bool = False) -> Manifest:
    """Return the security context of a container: no capability, but IPC_LOCK if it pins memory."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], **({"add": ["IPC_LOCK"]} if pins_memory else {})},
    }


def _avoiding(nodes: tuple[str, ...]) -> Manifest | None:
    if not nodes:
        return None
    # By name, not by the label kubernetes.io/hostname, which some clouds fill with something else. One value a field.
    fields = [{"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in sorted(nodes)]
    terms = [{"matchFields": fields}]
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}


def _spread(plan: PodPlan) -> list[Manifest]:
    """One pod per node, of the nodes whose taints the pods tolerate; all on one if there is no other.

    Pods that ask for all GPUs of a node are alone there anyway.
    """
    if plan.nodes == 1:
        return []
    return [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "DoNotSchedule",
            "nodeTaintsPolicy": "Honor",
            "labelSelector": {"matchLabels": {labels.MANAGED_BY: labels.STEERLM, labels.ROLE: labels.NODE_ROLE}},
            "matchLabelKeys": [labels.JOB, labels.ATTEMPT],
        }
    ]


def _filled(**fields: Any) -> Manifest:
    """Return the fields that have a value: an empty list or map in a manifest means the same as none."""
    return {name: value for name, value in fields.items() if value not in (None, [], {})}
