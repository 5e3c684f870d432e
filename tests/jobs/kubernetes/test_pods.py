# SPDX-License-Identifier: Apache-2.0
"""What pods say, by the statuses that a Kubernetes 1.34 gives: why a job waits, and which failure is the cause."""

import json
from typing import Any

import pytest

from steerlm.jobs.kubernetes.pods import (
    Rank,
    failures,
    lost_nodes,
    never_starts,
    queue_message,
    running,
    summary,
    waiting,
)

Json = dict[str, Any]


def pod(name: str, phase: str, state: Json | None = None, node: str | None = "node-1", **status: Any) -> Json:
    containers = [{"name": "pytorch", "image": "r/train:1", "state": state}] if state else []
    return {
        "metadata": {"name": name, "uid": name},
        "spec": {"nodeName": node} if node else {},
        "status": {"phase": phase, "containerStatuses": containers, **status},
    }


def ended(code: int, message: Json | None = None, reason: str = "Error") -> Json:
    return {"terminated": {"exitCode": code, "reason": reason, "message": json.dumps(message) if message else ""}}


def said(message: str, kind: str = "retryable", code: int = 1, rank: int | None = 0, **more: Any) -> Json:
    return ended(code, {"exit_code": code, "kind": kind, "message": message, "rank": rank, "step": 7, **more})


UNSCHEDULABLE = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
    "message": "0/32 nodes are available: 32 Insufficient nvidia.com/gpu.",
}
GATED = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}
EVICTED = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "evicted"}


@pytest.mark.parametrize(
    ("pods", "text"),
    [
        ([], "2 of 2 pods are not created yet"),
        ([pod("a", "Running", {"running": {}})], "1 of 2 pods are not created yet"),
        (
            [pod(name, "Pending", node=None, conditions=[UNSCHEDULABLE]) for name in "ab"],
            "unschedulable: 0/32 nodes are available: 32 Insufficient nvidia.com/gpu. (2 of 2 pods)",
        ),
        ([pod(name, "Pending", node=None, conditions=[GATED]) for name in "ab"], "held back by a scheduling gate"),
        (
            [pod("a", "Running", {"running": {}}), pod("b", "Pending", {"waiting": {"reason": "ImagePullBackOff"}})],
            "ImagePullBackOff of r/train:1",
        ),
        ([pod("a", "Pending", {"waiting": {"reason": "ContainerCreating"}})], "containers are starting"),
        ([pod(name, "Running", {"running": {}}) for name in "ab"], ""),
    ],
)
def test_what_a_job_waits_for(pods: list[Json], text: str) -> None:
    assert waiting(pods, 2).startswith(text) and bool(waiting(pods, 2)) == bool(text)


def test_only_what_nobody_can_wait_for_never_starts() -> None:
    broken = {"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "s" not found'}}
    assert 'secret "s" not found' in never_starts([pod("a", "Running"), pod("b", "Pending", broken)])
    assert not never_starts([pod("a", "Pending", {"waiting": {"reason": "ImagePullBackOff"}})])


@pytest.mark.parametrize(
    ("pods", "rank", "text", "more"),
    [
        (
            [
                pod("w-1", "Failed", said("rank 0 is gone", lost_peer=True)),
                pod("w-2", "Failed", said("the loss is nan", "permanent", rank=9)),
                pod("w-3", "Failed", ended(137, reason="OOMKilled")),
            ],
            Rank.PERMANENT,
            "rank 9 (w-2 on node node-1): the loss is nan",
            2,
        ),
        (
            [
                pod("w-1", "Failed", said("rank 3 is gone", lost_peer=True)),
                pod("w-3", "Failed", ended(137, reason="OOMKilled")),
            ],
            Rank.MEMORY,
            "w-3 on node node-1 ran out of memory (OOMKilled)",
            1,
        ),
        (
            [
                pod("w-1", "Failed", said("killed by SIGKILL (out of memory?)", code=137)),
                pod("w-2", "Failed", ended(143), conditions=[EVICTED]),
            ],
            Rank.NODE,
            "w-2 was evicted from node node-1: evicted",
            1,
        ),
        (
            [pod("w-1", "Failed", reason="Evicted", message="The node was low on resource: memory.")],
            Rank.NODE,
            "w-1 on node node-1: Evicted: The node was low on resource: memory.",
            0,
        ),
        ([pod("w-1", "Failed", ended(1))], Rank.RETRYABLE, "w-1 on node node-1 ended with exit code 1 and no", 0),
        ([pod("w-1", "Failed", said("saved", code=143))], Rank.STOPPED, "rank 0 (w-1 on node node-1): saved", 0),
        (
            [pod("w-1", "Failed", ended(128, reason="StartError"))],
            Rank.PERMANENT,
            "w-1: r/train:1 does not start",
            0,
        ),
    ],
)
def test_the_cause_comes_first(pods: list[Json], rank: Rank, text: str, more: int) -> None:
    found = failures(pods)
    assert found[0].rank == rank
    assert summary(found).startswith(text)
    assert len(found) == more + 1


def test_the_launcher_of_an_mpijob_speaks_of_the_node_that_failed() -> None:
    launcher = pod("job-launcher", "Failed", said("was killed", rank=9, pod="job-worker-1"), node="node-7")
    nodes = [pod(f"job-worker-{n}", "Running", {"running": {}}, node=f"node-{n}") for n in range(2)]
    assert failures([launcher, *nodes])[0].message == "rank 9 (job-worker-1 on node node-1): was killed"
    assert failures([launcher])[0].message == "rank 9 (job-launcher on node node-7): was killed", "it is gone"


def test_pods_that_run_or_ended_well_are_no_failures() -> None:
    both = [pod("a", "Running", {"running": {}}), pod("b", "Succeeded", ended(0, reason="Completed"))]
    assert not failures(both) and running(both, 2) and not running(both, 3)
    assert not running([*both, pod("c", "Pending", node=None)], 2)


def test_a_node_that_does_not_respond_is_lost_for_its_pods_only() -> None:
    def node(status: str) -> Json:
        return {"status": {"conditions": [{"type": "Ready", "status": status}]}}

    nodes = {"node-1": node("Unknown"), "node-2": node("True"), "node-3": node("False")}
    assert lost_nodes([pod("a", "Running"), pod("b", "Running", node="node-2")], nodes) == ["node-1"]
    assert lost_nodes([pod("a", "Succeeded"), pod("b", "Running", node="node-2")], nodes) == []
    assert lost_nodes([pod("a", "Running", node="gone")], nodes) == ["gone"]


@pytest.mark.parametrize(
    ("conditions", "said"),
    [
        ([], "waits for its queue"),
        ([("QuotaReserved", "False", "insufficient unused quota for cpu")], "insufficient unused quota for cpu"),
        ([("QuotaReserved", "True", "Quota reserved in ClusterQueue a")], "admitted, and not started yet"),
        (
            [("Evicted", "True", "Preempted to accommodate b"), ("QuotaReserved", "False", "c")],
            "Preempted to accommodate b",
        ),
        ([("Evicted", "False", "Previously: Preempted"), ("QuotaReserved", "False", "no quota")], "no quota"),
    ],
)
def test_a_suspended_job_waits_for_what_its_queue_says(conditions: list[tuple[str, str, str]], said: str) -> None:
    listed = [{"type": kind, "status": status, "message": message} for kind, status, message in conditions]
    assert queue_message({"status": {"conditions": listed}}) == said
