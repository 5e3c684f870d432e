# SPDX-License-Identifier: Apache-2.0
"""What launchers and reapers asked of the API server while the tests of this folder ran, by its audit log.

Pytest runs the files of a folder by name; this one comes last. A request that the Roles do not grant is always an
error; a right that nobody used is one if all tests ran that use rights.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from steerlm.jobs.kubernetes.permissions import LAUNCHER, LAUNCHER_CLUSTER, REAPER, Access, AccessRule, single
from tests.cluster.conftest import STARTED, Cluster

USERS = {"test_dead_node", "test_faults", "test_kinds", "test_leases", "test_reaper", "test_run"}
"""The files that use all rights between them."""
SERVER = "authorization.k8s.io"
"""Everyone may ask what they may do: the doctor's pod does."""


@pytest.mark.fast
@pytest.mark.parametrize(
    ("account", "rules"), [("steerlm-launcher", LAUNCHER + LAUNCHER_CLUSTER), ("steerlm-reaper", REAPER)]
)
def test_the_roles_grant_what_is_used_and_nothing_else(
    cluster: Cluster, request: pytest.FixtureRequest, account: str, rules: tuple[AccessRule, ...]
) -> None:
    if cluster.audit_log is None:
        pytest.skip("the audit log of another cluster cannot be read")
    granted = {str(access) for access in single(rules)}
    used = {str(access) for access in requests(cluster, account)}
    assert used <= granted, "refused"
    ran = {item.path.stem for item in request.session.items if not item.config.getoption("keyword")}
    if ran >= USERS:
        assert granted <= used, "granted, and nobody used it"


def requests(cluster: Cluster, account: str) -> Iterator[Access]:
    """What a service account has asked for, in any namespace, since this session began."""
    assert cluster.audit_log
    with open(cluster.audit_log, encoding="utf-8") as lines:
        for line in lines:
            if f":{account}" not in line:
                continue
            event: dict[str, Any] = json.loads(line)
            user, target = event["user"]["username"], event.get("objectRef", {})
            if not user.startswith("system:serviceaccount:") or not user.endswith(f":{account}"):
                continue
            if event["requestReceivedTimestamp"] < STARTED or target.get("apiGroup") == SERVER:
                continue
            yield Access(target.get("apiGroup", ""), target["resource"], target.get("subresource", ""), event["verb"])
