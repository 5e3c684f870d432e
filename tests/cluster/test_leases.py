# SPDX-License-Identifier: Apache-2.0
"""Locks by Leases on the real API server, with the launcher's own rights: processes of two machines on one key."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from steerlm.artifact import Store
from steerlm.jobs.kubernetes.lease import lease_name
from tests.cluster.conftest import Cluster, wait_for
from tests.cluster.platform import kubeconfig_of, overlay
from tests.conftest import ROOT

pytestmark = pytest.mark.fast
KEY = Path("store", "stage", "key")
Start = Callable[[str], "Launcher"]


class Launcher:
    """A process that holds the lock, or waits for it, as a pod of the name `machine`."""

    def __init__(self, workspace: Path, machine: str, environment: dict[str, str]) -> None:
        self.machine = machine
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster.lease_process", str(workspace / "store"), machine],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, **environment, "STEERLM_WORKSPACE": str(workspace)},
        )

    def says(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def does(self, command: str) -> str:
        assert self.process.stdin
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        return self.says()

    def ends(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        assert self.process.wait(60) == 0

    def __str__(self) -> str:
        return f"process {self.process.pid} on {self.machine}"


@pytest.fixture(scope="module")
def account(cluster: Cluster, namespace: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kubeconfig of the launcher in this module's namespace."""
    kinds = ("ServiceAccount", "Role", "RoleBinding")
    cluster.apply(*(one for one in overlay(cluster, "lab", namespace) if one["kind"] in kinds))
    return kubeconfig_of(cluster, "steerlm-launcher", namespace, tmp_path_factory.mktemp("launcher") / "config")


@pytest.fixture
def start(account: Path, namespace: str, tmp_path: Path) -> Iterator[Start]:
    """Start a launcher on a machine."""
    environment = {"KUBECONFIG": str(account), "STEERLM_LOCKS": "lease", "STEERLM_NAMESPACE": namespace}
    started: list[Launcher] = []

    def start(machine: str) -> Launcher:
        started.append(Launcher(tmp_path, machine, environment))
        return started[-1]

    yield start
    for launcher in started:
        if launcher.process.poll() is None:
            launcher.process.kill()
        launcher.process.wait()


@pytest.fixture
def lease(cluster: Cluster, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Read the Lease of the key; the next test begins without it."""
    monkeypatch.setenv("STEERLM_WORKSPACE", str(tmp_path))
    name = lease_name(tmp_path / KEY / ".lock")

    def read() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(cluster.kubectl("-n", namespace, "get", "lease", name, "-o", "json"))
        return found

    yield read
    cluster.kubectl("-n", namespace, "delete", "lease", name, "--ignore-not-found")


def test_launchers_of_two_machines_take_turns(start: Start, lease: Any, tmp_path: Path) -> None:
    first = start("pod-a")
    assert first.says() == "holds"
    spec = lease()["spec"]
    assert spec["holderIdentity"].startswith(f"pod-a_{first.process.pid}_")
    assert (spec["leaseTransitions"], spec["leaseDurationSeconds"]) == (1, 8)
    second = start("pod-b")
    assert second.says() == f"waits for {first}"
    wait_for("renewal", lambda: lease()["spec"]["renewTime"] > spec["renewTime"])
    assert first.does("finish") == "done"
    first.ends()
    assert second.says() == "holds"
    assert lease()["spec"]["leaseTransitions"] == 2
    second.ends()
    assert "holderIdentity" not in lease()["spec"]
    artifact = Store(tmp_path / "store").find("stage", "key")
    assert artifact and (artifact.path / "writer").read_text() == "pod-a"


def test_a_killed_launcher_is_replaced_when_its_lease_expires(start: Start, lease: Any) -> None:
    first = start("pod-a")
    assert first.says() == "holds"
    second = start("pod-b")
    assert second.says() == f"waits for {first}"
    first.process.kill()
    assert second.says() == "holds"
    assert lease()["spec"]["leaseTransitions"] == 2
    second.ends()


def test_a_launcher_that_was_paused_completes_nothing(start: Start, lease: Any, tmp_path: Path) -> None:
    first = start("pod-a")
    assert first.says() == "holds"
    assert first.does("check") == "done"
    first.process.send_signal(signal.SIGSTOP)
    second = start("pod-b")
    assert second.says() == f"waits for {first}"
    assert second.says() == "holds"
    first.process.send_signal(signal.SIGCONT)
    message = f"was taken over by {second} (holder 2, this process was 1)"
    assert message in first.does("finish")
    assert Store(tmp_path / "store").find("stage", "key") is None
    assert second.does("finish") == "done"
    assert message in first.does("check")
    first.ends()
    assert lease()["spec"]["holderIdentity"].startswith("pod-b_"), "it is not released by who lost it"
    second.ends()
    artifact = Store(tmp_path / "store").find("stage", "key")
    assert artifact and (artifact.path / "writer").read_text() == "pod-b"


def test_the_lock_of_a_key_that_is_removed_leaves_no_lease(start: Start, lease: Any) -> None:
    first = start("pod-a")
    assert first.says() == "holds" and first.does("retire") == "done"
    first.ends()
    with pytest.raises(AssertionError, match="not found"):
        lease()


def test_the_lock_survives_a_restart_of_the_api_server(start: Start, lease: Any, cluster: Cluster) -> None:
    first = start("pod-a")
    assert first.says() == "holds"
    second = start("pod-b")
    assert second.says() == f"waits for {first}"
    cluster.restart_api_server()
    assert first.does("check") == "done"
    assert lease()["spec"]["leaseTransitions"] == 1
    assert first.does("finish") == "done"
    first.ends()
    assert second.says() == "holds"
    second.ends()
