# SPDX-License-Identifier: Apache-2.0
"""What the pods of an attempt say: why it waits, whether its pods run, and the cause if some have failed. Pure.

Pods, nodes and workloads are JSON objects as the API server returns them (Kubernetes API reference, `PodStatus`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from steerlm.jobs.kubernetes.client import Json
from steerlm.jobs.kubernetes.condition import true_conditions

MAX_NAMED = 3
"""Pods that a message names; more are counted."""


class Rank(IntEnum):
    """How much a failure explains those of other pods: the smallest is the cause."""

    PERMANENT = 0
    NODE = 1
    MEMORY = 2
    RETRYABLE = 3
    PEER_LOST = 4
    STOPPED = 5


@dataclass(frozen=True, slots=True)
class PodFailure:
    """Why a pod has ended.

    Attributes:
        node: The node, if it is to blame.
        process: The rank of the process that failed, if its message names one.
    """

    rank: Rank
    pod: str
    message: str
    exit_code: int = 1
    node: str | None = None
    process: int | None = None


def waiting(pods: Sequence[Json], expected: int) -> str:
    """Return in words what a job waits for whose queue has admitted it; empty if all pods run."""
    problems = [text for pod in pods if (text := _waiting(pod))]
    if not problems:
        missing = expected - len(pods)
        return f"{missing} of {expected} pods are not created yet" if missing > 0 else ""
    counts = {text: problems.count(text) for text in dict.fromkeys(problems)}
    all_of_them = max(expected, len(pods))  # an MPIJob has one that does not compute
    return "; ".join(
        text if number == 1 else f"{text} ({number} of {all_of_them} pods)" for text, number in list(counts.items())[:2]
    )


def _waiting(pod: Json) -> str:
    status = pod.get("status", {})
    if status.get("phase") not in (None, "Pending"):
        return ""
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            if condition.get("reason") == "SchedulingGated":
                return "held back by a scheduling gate"
            return f"unschedulable: {condition.get('message', 'no node fits')}"
    for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        reason = container.get("state", {}).get("waiting", {}).get("reason")
        if reason in ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"):
            return f"{reason} of {container['image']}"
        if reason in ("CreateContainerConfigError", "CreateContainerError", "RunContainerError"):
            return f"{reason}: {container['state']['waiting'].get('message', '')}"
    return "containers are starting" if pod["spec"].get("nodeName") else "waiting to be scheduled"


def queue_message(workload: Json) -> str:
    """Return in words what a suspended job waits for, as Kueue says it of the job's workload."""
    true = true_conditions(workload)
    for kind in ("Evicted", "Preempted"):
        if kind in true:
            return str(true[kind].get("message", kind))
    if "QuotaReserved" in true:
        return "admitted, and not started yet"  # the message of this condition only says which queue has the quota
    conditions = workload.get("status", {}).get("conditions", [])
    refused: Json = next((one for one in conditions if one["type"] == "QuotaReserved"), {})
    return str(refused.get("message") or "waits for its queue")


def never_starts(pods: Sequence[Json]) -> str:
    """Return why pods cannot start without a change by someone; empty if waiting may help."""
    for pod in pods:
        for container in pod.get("status", {}).get("containerStatuses", []):
            reason = container.get("state", {}).get("waiting", {}).get("reason")
            if reason in ("InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError"):
                detail = container["state"]["waiting"].get("message", "")
                return f"{pod['metadata']['name']}: {reason} of {container['image']}: {detail}"
    return ""


def running(pods: Sequence[Json], expected: int) -> bool:
    """Return whether all pods run or have ended: at least the expected ones, and none that still waits."""
    started = [pod.get("status", {}).get("phase") in ("Running", "Succeeded", "Failed") for pod in pods]
    return len(started) >= expected and all(started)


def lost_nodes(pods: Sequence[Json], nodes: Mapping[str, Json]) -> list[str]:
    """Return the nodes of pods that have not ended whose node is gone or does not respond."""
    used = [
        pod["spec"]["nodeName"]
        for pod in pods
        if pod["spec"].get("nodeName") and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")
    ]
    return [name for name in dict.fromkeys(used) if nodes and not node_ready(nodes.get(name))]


def node_ready(node: Json | None) -> bool:
    """Return whether a node responds; False for one that is gone."""
    return node is not None and "Ready" in true_conditions(node)


def failures(pods: Sequence[Json]) -> list[PodFailure]:
    """Return why pods have failed, the cause first."""
    nodes = {pod["metadata"]["name"]: pod["spec"].get("nodeName") for pod in pods}
    found = [failure for pod in pods if (failure := _failure(pod, nodes))]
    return sorted(found, key=lambda failure: failure.rank)


def _failure(pod: Json, nodes: Mapping[str, Any]) -> PodFailure | None:
    name, status = pod["metadata"]["name"], pod.get("status", {})
    node = nodes[name]
    if disruption := true_conditions(pod).get("DisruptionTarget"):
        text = f"{name} was evicted from node {node}: {disruption.get('message') or disruption.get('reason')}"
        return PodFailure(Rank.NODE, name, text)
    if status.get("phase") == "Failed" and status.get("reason"):
        text = f"{name} on node {node}: {status['reason']}: {status.get('message', '')}".rstrip(": ")
        return PodFailure(Rank.NODE, name, text, node=node)
    for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        ended = container.get("state", {}).get("terminated")
        if ended and ended.get("exitCode", 0) != 0:
            return _container_failure(name, nodes, container["image"], ended)
    return None


def _container_failure(name: str, nodes: Mapping[str, Any], image: str, ended: Json) -> PodFailure:
    code, node = int(ended["exitCode"]), nodes[name]
    if ended.get("reason") == "OOMKilled":
        return PodFailure(Rank.MEMORY, name, f"{name} on node {node} ran out of memory (OOMKilled)", code)
    if ended.get("reason") in ("ContainerCannotRun", "StartError"):
        return PodFailure(
            Rank.PERMANENT, name, f"{name}: {image} does not start: {ended.get('message', '').strip()}", code
        )
    try:
        said = json.loads(ended.get("message") or "")
        message, kind, process = str(said["message"]), str(said["kind"]), said.get("rank")
        code = int(said["exit_code"])
    except (ValueError, KeyError, TypeError):
        return PodFailure(
            Rank.RETRYABLE, name, f"{name} on node {node} ended with exit code {code} and no message", code
        )
    if said.get("pod") in nodes:
        name = said["pod"]
        node = nodes[name]
    where = f"rank {process} ({name} on node {node})" if process is not None else f"{name} on node {node}"
    if code == 143:
        rank = Rank.STOPPED
    elif said.get("lost_peer"):
        rank = Rank.PEER_LOST
    else:
        rank = Rank.PERMANENT if kind == "permanent" else Rank.RETRYABLE
    return PodFailure(rank, name, f"{where}: {message}", code, process=process)


def summary(found: Sequence[PodFailure]) -> str:
    """Return the cause in one line, with the number of pods that failed besides."""
    more = len(found) - 1
    return found[0].message + (f" (and {more} more pod{'s' if more > 1 else ''} failed)" if more else "")
