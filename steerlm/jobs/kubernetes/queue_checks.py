# SPDX-License-Identifier: Apache-2.0
"""What `steerlm doctor` checks of Kueue: the local queue, its cluster queue's resources, Kueue's own configuration.

Kueue says of a job that it can never admit only that it waits; each of these is a reason why one waits for ever.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

from steerlm.jobs.finding import Finding, right, wrong
from steerlm.jobs.kubernetes.checks import MANIFESTS, OPERATORS, ClusterCheckup
from steerlm.jobs.kubernetes.client import Cluster, ClusterError, Json
from steerlm.jobs.kubernetes.kinds import KINDS
from steerlm.jobs.kubernetes.pod import resources
from steerlm.jobs.kubernetes.quantity import amount

API = "/apis/kueue.x-k8s.io/v1beta2"
INSTALL = (
    "kubectl apply --server-side -f https://github.com/kubernetes-sigs/kueue/releases/download/v0.19.2/manifests.yaml"
)
DEFAULT_READY_TIMEOUT = "5m"
_DURATION = re.compile(r"([0-9.]+)(ms|h|m|s)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def check_queue(cluster: Cluster, checkup: ClusterCheckup) -> Iterator[Finding]:
    """Check the profile's queues: they exist, are active, and that of jobs covers what the largest one requests."""
    settings = checkup.settings
    if settings.queue is None:
        yield right("queue", "none: a job starts as soon as its pods fit")
        yield from _check_priorities(cluster, checkup)
    if settings.queue is None and settings.launcher.queue is None:
        return
    if cluster.find(API) is None:
        yield wrong("queue", "Kueue's API v1beta2 is not served", INSTALL)
        return
    if settings.launcher.queue not in (None, settings.queue):
        yield from _check_local_queue(cluster, settings.namespace, settings.launcher.queue, "the launcher's")
    if settings.queue is not None:
        yield from _check_local_queue(cluster, settings.namespace, settings.queue, "that of jobs", checkup)
        yield from _check_priorities(cluster, checkup)
        yield from _check_configuration(cluster, checkup)


def _check_local_queue(
    cluster: Cluster, namespace: str, queue_name: str, whose: str, checkup: ClusterCheckup | None = None
) -> Iterator[Finding]:
    """Check a local queue and its cluster queue; with `checkup` whether the latter covers its largest job."""
    local = cluster.find(f"{API}/namespaces/{namespace}/localqueues/{queue_name}")
    if local is None:
        yield wrong("queue", f"there is no LocalQueue {queue_name} in {namespace}, {whose}", MANIFESTS)
        return
    yield _active("queue", local, f"kubectl -n {namespace} describe localqueue {queue_name}")
    name = local["spec"]["clusterQueue"]
    try:
        queue = cluster.find(f"{API}/clusterqueues/{name}")
    except ClusterError as error:
        if error.status != 403:
            raise
        yield right("queue", f"the ClusterQueue {name} is not visible to you")
        return
    if queue is None:
        yield wrong("queue", f"there is no ClusterQueue {name}, which {queue_name} names", MANIFESTS)
        return
    yield _active("queue", queue, f"kubectl describe clusterqueue {name}")
    if checkup:
        yield from _check_quota(queue, checkup)


def _active(subject: str, found: Json, describe: str) -> Finding:
    """Return whether a queue admits jobs."""
    kind, name = found["kind"], found["metadata"]["name"]
    conditions = (found.get("status") or {}).get("conditions") or []
    active = [condition for condition in conditions if condition["type"] == "Active"]
    if active and active[0]["status"] == "True":
        return right(subject, f"{kind} {name} is active")
    reason = active[0].get("message", "") if active else "Kueue has not looked at it"
    return wrong(subject, f"{kind} {name} is not active: {reason}", describe)


def _check_quota(queue: Json, checkup: ClusterCheckup) -> Iterator[Finding]:
    """Compare quotas with the largest job, resource by resource; a queue of a cohort may borrow more."""
    name, settings = queue["metadata"]["name"], checkup.settings
    total = {key: checkup.nodes * amount(value) for key, value in resources(settings, checkup.devices).items()}
    quotas = dict.fromkeys((key for group in _groups(queue) for key in group["coveredResources"]), 0.0)
    for group in _groups(queue):
        for flavor in group["flavors"]:
            for resource in flavor["resources"]:
                quotas[resource["name"]] = max(quotas[resource["name"]], amount(str(resource["nominalQuota"])))
    uncovered = sorted(set(total) - set(quotas))
    if uncovered:
        text = f"ClusterQueue {name} does not cover {', '.join(uncovered)}: jobs that request it are never admitted"
        yield wrong("queue", text, _cover(name, uncovered, total))
    small = [key for key in total if key in quotas and quotas[key] < total[key]]
    if small and not queue["spec"].get("cohortName"):
        shown = ", ".join(f"{key} {_short(total[key])}, quota {_short(quotas[key])}" for key in small)
        text = f"ClusterQueue {name} is too small for the largest job: {shown}"
        yield wrong("queue", text, f"kubectl edit clusterqueue {name}")
    elif not uncovered:
        yield right("queue", f"ClusterQueue {name} covers {', '.join(sorted(total))}")


def _groups(queue: Json) -> list[Any]:
    return list(queue["spec"].get("resourceGroups") or [])


def _cover(queue: str, uncovered: list[str], total: dict[str, float]) -> str:
    """Return the command that lets the first resource group cover further resources in its first flavor."""
    patch: list[dict[str, Any]] = []
    for name in uncovered:
        quota = {"name": name, "nominalQuota": _short(total[name])}
        patch.append({"op": "add", "path": "/spec/resourceGroups/0/coveredResources/-", "value": name})
        patch.append({"op": "add", "path": "/spec/resourceGroups/0/flavors/0/resources/-", "value": quota})
    return f"kubectl patch clusterqueue {queue} --type=json -p '{json.dumps(patch)}'"


def _short(value: float) -> str:
    """Return an amount as a quantity: in Gi from 1 Gi on."""
    return f"{value / 2**30:.10g}Gi" if value >= 2**30 else f"{value:.10g}"


def _check_priorities(cluster: Cluster, checkup: ClusterCheckup) -> Iterator[Finding]:
    """Check the classes of `placement`: Kueue's where there is a queue, else those of pods."""
    settings = checkup.settings
    kind, path = "PriorityClass", "/apis/scheduling.k8s.io/v1/priorityclasses"
    if settings.queue is not None:
        kind, path = "WorkloadPriorityClass", f"{API}/workloadpriorityclasses"
    for field in ("priority_class", "restart_priority_class"):
        name = getattr(settings.placement, field)
        if name is None:
            continue
        try:
            found = cluster.find(f"{path}/{name}")
        except ClusterError as error:
            if error.status != 403:
                raise
            continue
        if found is None:
            yield wrong("queue", f"there is no {kind} {name} (placement.{field})", MANIFESTS)
        else:
            yield right("queue", f"{kind} {name}, {found['value']}")


def _check_configuration(cluster: Cluster, checkup: ClusterCheckup) -> Iterator[Finding]:
    """Check that Kueue manages the kind, and gives pods as long to start as the launcher does."""
    path = "/api/v1/namespaces/kueue-system/configmaps/kueue-manager-config"
    try:
        found = cluster.find(path)
    except ClusterError as error:
        if error.status != 403:
            raise
        found = None
    if found is None:
        yield right("queue", "Kueue's configuration is not visible to you")
        return
    text = next((value for key, value in found["data"].items() if key.endswith(".yaml")), "")
    settings = yaml.safe_load(text) or {}
    edit = "kubectl -n kueue-system edit configmap kueue-manager-config && "
    edit += "kubectl -n kueue-system rollout restart deployment kueue-controller-manager"
    framework = OPERATORS[checkup.backend].framework
    if framework not in (settings.get("integrations") or {}).get("frameworks", []):
        kind = KINDS[checkup.backend].name
        yield wrong("queue", f"Kueue does not manage {kind}: integrations.frameworks lacks {framework}", edit)
    ready = settings.get("waitForPodsReady")
    if ready is None or ready.get("enable") is False:
        yield right("queue", "Kueue does not limit the time in which pods start; the launcher does")
        return
    timeout = ready.get("timeout", DEFAULT_READY_TIMEOUT)
    needed = checkup.jobs.startup_minutes
    if seconds(timeout) < needed * 60:
        text = f"waitForPodsReady.timeout is {timeout}: Kueue evicts a job before jobs.startup_minutes, {needed:g}"
        yield wrong("queue", text, edit)
    else:
        yield right("queue", f"waitForPodsReady.timeout {timeout}, jobs.startup_minutes {needed:g}")


def seconds(duration: str) -> float:
    """Return the seconds of a duration as Go writes it.

    >>> seconds("1h30m"), seconds("300s")
    (5400.0, 300.0)
    """
    return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION.findall(duration))
