# SPDX-License-Identifier: Apache-2.0
"""What the doctor concludes from objects of the API server. With a server: tests/cluster/test_doctor.py."""

import json
import shlex
from typing import Any

import pytest
import yaml

from steerlm.jobs.config import JobSettings
from steerlm.jobs.kubernetes import permissions
from steerlm.jobs.kubernetes.checks import OPERATORS, ClusterCheckup, _admits, _room, _short
from steerlm.jobs.kubernetes.config import ClusterSettings, PlacementSettings, ResourceSettings
from steerlm.jobs.kubernetes.kinds import KINDS
from steerlm.jobs.kubernetes.quantity import amount
from steerlm.jobs.kubernetes.queue_checks import _active, _check_quota, seconds
from tests.conftest import ROOT

Json = dict[str, Any]
GPU = "nvidia.com/gpu"
TAINT = {"key": GPU, "value": "present", "effect": "NoSchedule"}


def checkup(nodes: int = 32, **settings: Any) -> ClusterCheckup:
    return ClusterCheckup("pytorchjob", ClusterSettings(**settings), JobSettings(), nodes, 8)


def shipped_queue() -> Json:
    text = (ROOT / "manifests" / "components" / "kueue" / "queues.yaml").read_text(encoding="utf-8")
    (queue,) = [
        one
        for one in yaml.safe_load_all(text)
        if one["kind"] == "ClusterQueue" and one["metadata"]["name"] == "steerlm"
    ]
    return dict(queue)


def test_every_kind_has_an_operator() -> None:
    assert set(OPERATORS) == set(KINDS)


def test_the_shipped_queue_fits_32_nodes_and_not_33() -> None:
    (fits,) = _check_quota(shipped_queue(), checkup(32))
    assert fits.ok and "nvidia.com/gpu" in fits.text
    (short,) = _check_quota(shipped_queue(), checkup(33))
    assert not short.ok and "nvidia.com/gpu 264, quota 256" in short.text
    borrowing = shipped_queue()
    borrowing["spec"]["cohortName"] = "all"
    (fits,) = _check_quota(borrowing, checkup(33))
    assert fits.ok


def test_a_resource_that_the_queue_does_not_cover_is_added_by_the_command_that_is_given() -> None:
    asked = checkup(2, resources={"extra": {"rdma/ib": "8"}})
    (finding,) = _check_quota(shipped_queue(), asked)
    assert not finding.ok and "does not cover rdma/ib" in finding.text
    words = shlex.split(finding.mend)
    assert words[:4] == ["kubectl", "patch", "clusterqueue", "steerlm"]
    group = shipped_queue()["spec"]["resourceGroups"][0]
    first, second = json.loads(words[-1])
    assert first["path"] == "/spec/resourceGroups/0/coveredResources/-"
    assert second["path"] == "/spec/resourceGroups/0/flavors/0/resources/-"
    group["coveredResources"].append(first["value"])
    group["flavors"][0]["resources"].append(second["value"])
    mended = shipped_queue()
    mended["spec"]["resourceGroups"] = [group]
    (fits,) = _check_quota(mended, asked)
    assert fits.ok


@pytest.mark.parametrize(
    ("conditions", "says"),
    [
        ([{"type": "Active", "status": "True"}], "LocalQueue steerlm is active"),
        (
            [{"type": "Active", "status": "False", "message": "ClusterQueue is missing"}],
            "LocalQueue steerlm is not active: ClusterQueue is missing",
        ),
        ([], "LocalQueue steerlm is not active: Kueue has not looked at it"),
    ],
)
def test_a_queue_that_is_not_active_says_why(conditions: list[Json], says: str) -> None:
    found = {"kind": "LocalQueue", "metadata": {"name": "steerlm"}, "status": {"conditions": conditions}}
    assert _active("queue", found, "kubectl describe").text == says


def node(taints: list[Json] | None = None, ready: str = "True", **spec: Any) -> Json:
    return {
        "metadata": {"name": "n", "labels": {"gpu": "h100"}},
        "spec": {"taints": taints or [], **spec},
        "status": {
            "conditions": [{"type": "Ready", "status": ready}],
            "allocatable": {"cpu": "192", "memory": "2Ti", GPU: "8"},
        },
    }


@pytest.mark.parametrize(
    ("one", "placement", "admits"),
    [
        (node(), {}, True),
        (node(ready="Unknown"), {}, False),
        (node(unschedulable=True), {}, False),
        (node([TAINT]), {}, True),
        (node([TAINT]), {"tolerations": ()}, False),
        (node([TAINT]), {"tolerations": ({"operator": "Exists"},)}, True),
        (node([TAINT]), {"tolerations": ({"key": GPU, "value": "present"},)}, True),
        (node([TAINT]), {"tolerations": ({"key": GPU, "value": "other"},)}, False),
        (node([TAINT]), {"tolerations": ({"key": GPU, "operator": "Exists", "effect": "NoExecute"},)}, False),
        (node([{**TAINT, "effect": "PreferNoSchedule"}]), {"tolerations": ()}, True),
        (node(), {"node_selector": {"gpu": "h100"}}, True),
        (node(), {"node_selector": {"gpu": "a100"}}, False),
    ],
)
def test_which_nodes_take_pods(one: Json, placement: Json, admits: bool) -> None:
    assert _admits(one, ClusterSettings(placement=PlacementSettings(**placement))) is admits


def test_what_a_node_is_short_of() -> None:
    wanted = {"cpu": 96.0, "memory": amount("1000Gi"), "ephemeral-storage": amount("50Gi"), GPU: 8.0}
    assert _short(node(), wanted) == [], "a node that does not tell its ephemeral storage is not short of it"
    assert _short(node(), {**wanted, GPU: 9.0, "cpu": 193.0}) == ["cpu", GPU]
    assert _short(node(), {**wanted, "rdma/ib": 8.0}) == ["rdma/ib"]


def test_for_how_many_pods_a_node_has_room() -> None:
    assert _room(node(), {"cpu": 96.0, GPU: 8.0}) == 1
    assert _room(node(), {"cpu": 0.4, GPU: 2.0}) == 4
    assert _room(node(), {"cpu": 0.5, "hugepages-2Mi": 0.0}) == 384


@pytest.mark.parametrize("text", ["", "8 GB", "many", "1.2.3", "8Ki8"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        amount(text)


def test_durations() -> None:
    assert [seconds(text) for text in ("5m0s", "1h0m0s", "90s", "500ms")] == [300, 3600, 90, 0.5]


def test_rights_are_named_as_kubectl_takes_them() -> None:
    names = {str(access) for access in permissions.single(permissions.LAUNCHER)}
    assert {"get pods/log", "create pytorchjobs.kubeflow.org", "patch leases.coordination.k8s.io"} <= names
    assert len(names) == len(list(permissions.single(permissions.LAUNCHER)))


def test_a_quantity_may_be_a_number() -> None:
    found = ResourceSettings.model_validate({"cpu": 64, "memory": "2Gi", "extra": {"rdma/ib": 8}})
    assert (found.cpu, found.extra) == ("64", {"rdma/ib": "8"})
    with pytest.raises(ValueError):
        ResourceSettings.model_validate({"cpu": True})
