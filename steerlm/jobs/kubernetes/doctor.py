# SPDX-License-Identifier: Apache-2.0
"""The cluster's part of `steerlm doctor`: reads what the API server says, then runs two pods that look from inside."""

import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from steerlm.jobs.finding import Finding, from_json, right, wrong
from steerlm.jobs.kubernetes import checks
from steerlm.jobs.kubernetes.checks import ClusterCheckup
from steerlm.jobs.kubernetes.client import Cluster, ClusterError
from steerlm.jobs.kubernetes.config import ClusterSettings
from steerlm.jobs.kubernetes.images import reference
from steerlm.jobs.kubernetes.labels import COMPONENT, MANAGED_BY, STEERLM
from steerlm.jobs.kubernetes.pod import Manifest, container_security, needs_root, pod_security
from steerlm.jobs.kubernetes.probe import ProbeSpec
from steerlm.jobs.kubernetes.queue_checks import check_queue

LAUNCHER_IMAGE, WORKER_IMAGE = "launcher", "train-reward"
POLL_SECONDS = 0.5
UNSCHEDULABLE_SECONDS = 30.0
"""How long a pod may find no node: an autoscaler needs longer, and says so in the pod's events."""
SIZE = {"cpu": "500m", "memory": "1Gi", "ephemeral-storage": "256Mi"}


@dataclass(frozen=True, slots=True)
class ProbeTargets:
    """What the pods look at besides workspace and rights; see `ProbeSpec`."""

    store: str
    tracking: bool
    mlflow: str | None
    needed_bytes: int | None


def check_cluster(checkup: ClusterCheckup, targets: ProbeTargets | None) -> Iterator[Finding]:
    """Yield the findings on the cluster of a profile; `targets`: None to start no pods.

    Raises:
        InputError: There are no credentials of a cluster.
    """
    cluster = Cluster(checkup.settings.context)
    try:
        yield from checks.check_version(cluster)
    except ClusterError as error:
        yield wrong("cluster", str(error), "kubectl cluster-info; check KUBECONFIG and cluster.context of the profile")
        return
    parts: tuple[Callable[[Cluster, ClusterCheckup], Iterator[Finding]], ...] = (
        checks.check_kind,
        checks.check_namespace,
        checks.check_own_access,
        check_queue,
        checks.check_fabric,
        checks.check_nodes,
        checks.check_claim,
    )
    healthy = True
    for part in parts:
        for finding in _caught(part(cluster, checkup)):
            healthy = healthy and (finding.ok or finding.subject not in ("namespace", "access", "workspace"))
            yield finding
    images = checkup.settings.images
    for name in (LAUNCHER_IMAGE, WORKER_IMAGE):
        yield _check_reference(reference(name, images))
    if targets is None:
        return
    if not healthy:
        yield wrong("pods", "not started, because of the findings above", "mend them, then: steerlm doctor again")
        return
    yield from _caught(_look_inside(cluster, checkup, targets))


def _caught(findings: Iterator[Finding]) -> Iterator[Finding]:
    """Make a finding of an error of the API server."""
    try:
        yield from findings
    except ClusterError as error:
        yield wrong("cluster", str(error), "kubectl auth can-i --list, with the same KUBECONFIG")


def _check_reference(image: str) -> Finding:
    """Check that an image is named so exactly that it cannot change between two pods of a job."""
    _, digest, _ = image.partition("@sha256:")
    tag = image.rpartition("/")[2].partition(":")[2]
    if digest or tag not in ("", "latest"):
        return right("image", image)
    return wrong("image", f"{image} names no tag or digest, so nodes may run different ones", "set cluster.images.tag")


def _look_inside(cluster: Cluster, checkup: ClusterCheckup, targets: ProbeTargets) -> Iterator[Finding]:
    """Run the pod of the launcher's image, then that of a worker's image."""
    settings, file = checkup.settings, f".doctor-{uuid.uuid4().hex[:8]}"
    workspace = Path(settings.workspace.path)
    first = ProbeSpec(
        workspace=workspace,
        file=file,
        write=True,
        namespace=settings.namespace,
        store=targets.store,
        tracking=targets.tracking,
        mlflow=targets.mlflow,
        needed_bytes=targets.needed_bytes,
    )
    findings = run_pod(cluster, probe_pod(first, settings), checkup.jobs.startup_minutes * 60)
    yield from findings
    if not all(finding.ok for finding in findings if finding.subject in ("workspace", "pods")):
        return
    second = ProbeSpec(workspace=workspace, file=file, write=False)
    yield from run_pod(cluster, probe_pod(second, settings), checkup.jobs.startup_minutes * 60)


def probe_pod(spec: ProbeSpec, settings: ClusterSettings) -> Manifest:
    """Return the pod that runs `probe.py`: as the launcher where it writes, as a worker where it reads."""
    launcher = spec.write
    name = "launcher" if launcher else "worker"
    mounts = {"workspace": str(settings.workspace.path), "scratch": "/scratch", "temporary": "/tmp"}
    container = {
        "name": "probe",
        "image": reference(LAUNCHER_IMAGE if launcher else WORKER_IMAGE, settings.images),
        "imagePullPolicy": settings.images.pull_policy,
        "command": ["python", "-m", "steerlm.jobs.kubernetes.probe", spec.model_dump_json(exclude_none=True)],
        "env": [{"name": "HOME", "value": mounts["scratch"]}],
        "envFrom": [{"secretRef": {"name": secret}} for secret in settings.launcher.secrets] if launcher else [],
        "resources": {"requests": SIZE, "limits": SIZE},
        "volumeMounts": [{"name": volume, "mountPath": path} for volume, path in mounts.items()],
        "securityContext": container_security(),
    }
    pod_spec = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": 3600,
        "serviceAccountName": settings.launcher.service_account if launcher else settings.service_account,
        "automountServiceAccountToken": launcher,
        "enableServiceLinks": False,
        "containers": [container],
        "imagePullSecrets": [{"name": secret} for secret in settings.images.pull_secrets],
        "tolerations": [] if launcher else [dict(toleration) for toleration in settings.placement.tolerations],
        "nodeSelector": {} if launcher else dict(settings.placement.node_selector),
        "securityContext": pod_security(settings, root=not launcher and needs_root(settings)),
        "volumes": [
            {"name": "workspace", "persistentVolumeClaim": {"claimName": settings.workspace.claim}},
            {"name": "scratch", "emptyDir": {}},
            {"name": "temporary", "emptyDir": {}},
        ],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": f"steerlm-doctor-{name}-",
            "namespace": settings.namespace,
            "labels": {MANAGED_BY: STEERLM, COMPONENT: "launcher" if launcher else "doctor"},
            "annotations": {"sidecar.istio.io/inject": "false"},
        },
        "spec": pod_spec,
    }


def run_pod(cluster: Cluster, pod: Manifest, seconds: float) -> list[Finding]:
    """Run a probe's pod to its end, delete it, and return its findings; or one on why it did not run."""
    pods = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods"
    name = cluster.create(pods, pod)["metadata"]["name"]
    start = time.monotonic()
    try:
        while True:
            status = cluster.get(f"{pods}/{name}")["status"]
            elapsed = time.monotonic() - start
            if status.get("phase") == "Succeeded":
                return _findings(cluster.text(f"{pods}/{name}/log"))
            if status.get("phase") == "Failed":
                last = cluster.text(f"{pods}/{name}/log", tailLines=1).strip() or status.get("message", "")
                image = pod["spec"]["containers"][0]["image"]
                return [wrong("pods", f"{name} failed: {last}", f"check that {image} is this version's image")]
            if reason := _stuck(status, elapsed):
                return [wrong("pods", f"{name}: {reason}", "check cluster.images, cluster.launcher and the nodes")]
            if elapsed > seconds:
                text = f"{name} did not end within {seconds / 60:g} minutes (jobs.startup_minutes)"
                return [wrong("pods", text, "raise jobs.startup_minutes, or pull the images before: the overlay kueue")]
            time.sleep(POLL_SECONDS)
    finally:
        cluster.delete(f"{pods}/{name}", grace_seconds=0)


def _findings(text: str) -> list[Finding]:
    try:
        return from_json(text.strip().splitlines()[-1])
    except (ValueError, IndexError):
        return [wrong("pods", f"a pod printed no findings but: {text.strip()[-200:]}", "use this version's images")]


def _stuck(status: Manifest, elapsed: float) -> str | None:
    """Return why a pod cannot start, once waiting will not help."""
    for condition in status.get("conditions") or []:
        unschedulable = condition["type"] == "PodScheduled" and condition.get("reason") == "Unschedulable"
        if unschedulable and elapsed > UNSCHEDULABLE_SECONDS:
            return f"no node takes it: {condition.get('message', '')}"
    for container in status.get("containerStatuses") or []:
        waiting = container["state"].get("waiting") or {}
        if waiting.get("reason") in ("ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError"):
            return f"{waiting['reason']}: {waiting.get('message', '')}"
    return None
