# SPDX-License-Identifier: Apache-2.0
"""The launcher of a run on a cluster: a batch Job whose pod runs the pipeline and submits its jobs. Pure.

The Job's controller makes a new pod where a node was drained or lost, and only there: the exit code of a pipeline that
has failed or was canceled ends the Job. The new pod attaches to the jobs that the old one has left.
"""

from collections.abc import Mapping

from steerlm.jobs.kubernetes import labels
from steerlm.jobs.kubernetes.config import ClusterSettings
from steerlm.jobs.kubernetes.pod import KEEP_SECONDS, Manifest, container_security, pod_security

COMPONENT = "launcher"
CONTAINER = "launcher"
INPUT = "/run/steerlm"
"""Where the ConfigMap with recipe, profile and options is mounted."""
CACHE = "cache"
"""Folder in the workspace of the store's local copy."""
JOB_UID = "metadata.labels['batch.kubernetes.io/controller-uid']"
"""Which Job a pod belongs to, as its controller marks it."""
MARGIN_SECONDS = 120
"""A launcher's grace period beyond that of its jobs: it waits until they have saved."""
RESTARTS = 6
ENDED = (1, 2, 130, 143)
"""Exit codes with which a pipeline has ended: failed, bad input, canceled."""


def launcher_labels(run: str) -> dict[str, str]:
    """Return the labels of a run's objects."""
    return {labels.MANAGED_BY: labels.STEERLM, labels.COMPONENT: COMPONENT, labels.RUN: run}


def config_map(run: str, settings: ClusterSettings, files: Mapping[str, str]) -> Manifest:
    """Return the ConfigMap that gives a launcher its recipe, profile and options."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": run, "namespace": settings.namespace, "labels": launcher_labels(run)},
        "data": dict(files),
    }


def launcher_job(run: str, settings: ClusterSettings, image: str, grace_seconds: float) -> Manifest:
    """Return the launcher's Job.

    Args:
        run: Name of the run, of the Job and of its ConfigMap.
        settings: The profile's section `cluster`.
        image: Reference of the image.
        grace_seconds: Time that a job gets to save.
    """
    queue = settings.launcher.queue
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": run,
            "namespace": settings.namespace,
            "labels": {**launcher_labels(run), **({labels.QUEUE: queue} if queue else {})},
        },
        "spec": {
            "suspend": queue is not None,
            "backoffLimit": RESTARTS,
            "podReplacementPolicy": "Failed",  # two launchers at a time would be one too many
            "podFailurePolicy": {
                "rules": [
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                    {
                        "action": "FailJob",
                        "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": list(ENDED)},
                    },
                ]
            },
            "activeDeadlineSeconds": settings.deadline_hours * 3600,
            "ttlSecondsAfterFinished": KEEP_SECONDS,
            "template": {
                "metadata": {
                    "labels": launcher_labels(run),
                    "annotations": {
                        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
                        "sidecar.istio.io/inject": "false",
                    },
                },
                "spec": _pod(run, settings, image, grace_seconds),
            },
        },
    }


def _pod(run: str, settings: ClusterSettings, image: str, grace_seconds: float) -> Manifest:
    amounts = {"cpu": settings.launcher.cpu, "memory": settings.launcher.memory}
    workspace = str(settings.workspace.path)
    environment = {
        "STEERLM_RUN": run,
        "STEERLM_NAMESPACE": settings.namespace,
        "STEERLM_WORKSPACE": workspace,
        "STEERLM_LOCKS": "lease",
        "STEERLM_CACHE": f"{workspace}/{CACHE}",
        "HOME": "/tmp",
        "MPLCONFIGDIR": "/tmp/matplotlib",
        "USER": "steerlm",
        "PYTHONUNBUFFERED": "1",
    }
    pod: Manifest = {
        "restartPolicy": "Never",
        "serviceAccountName": settings.launcher.service_account,
        "automountServiceAccountToken": True,  # the account itself hands none out
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": round(grace_seconds) + MARGIN_SECONDS,
        "securityContext": pod_security(settings),
        "containers": [
            {
                "name": CONTAINER,
                "image": image,
                "imagePullPolicy": settings.images.pull_policy,
                "command": ["python", "-m", "steerlm.cli.launch", INPUT],
                "env": [
                    *({"name": name, "value": value} for name, value in environment.items()),
                    {"name": "STEERLM_POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "STEERLM_LAUNCHER", "valueFrom": {"fieldRef": {"fieldPath": JOB_UID}}},
                ],
                "envFrom": [{"secretRef": {"name": name}} for name in settings.launcher.secrets],
                "resources": {"requests": amounts, "limits": amounts},
                "volumeMounts": [
                    {"name": "input", "mountPath": INPUT, "readOnly": True},
                    {"name": "workspace", "mountPath": workspace},
                    {"name": "temporary", "mountPath": "/tmp"},
                ],
                "securityContext": container_security(),
                "terminationMessagePolicy": "FallbackToLogsOnError",
            }
        ],
        "volumes": [
            {"name": "input", "configMap": {"name": run}},
            {"name": "workspace", "persistentVolumeClaim": {"claimName": settings.workspace.claim}},
            {"name": "temporary", "emptyDir": {}},
        ],
    }
    if settings.images.pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in settings.images.pull_secrets]
    return pod
