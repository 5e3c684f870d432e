# SPDX-License-Identifier: Apache-2.0
"""The doctor on the lab's cluster: all is well after the overlay, and each thing that is missing is named."""

from pathlib import Path

import pytest

from steerlm.jobs.finding import Finding
from steerlm.pipeline.doctor import examine
from steerlm.recipe import load_profile
from tests.cluster.conftest import Cluster
from tests.cluster.platform import NAMESPACE, install, kubeconfig, kubeconfig_of

pytestmark = pytest.mark.fast
PROFILE = """
name: lab
backend: pytorchjob
store: s3://steerlm/store
layouts:
  sft: {nodes: 32, devices: 8}
cluster:
  queue: steerlm
  placement:
    restart_priority_class: steerlm-restart
    tolerations:
      - {key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}
      - {key: kwok.x-k8s.io/node, operator: Exists, effect: NoSchedule}
  launcher: {queue: steerlm-launchers}
"""


@pytest.fixture(scope="module")
def profile(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    install(cluster)
    path = tmp_path_factory.mktemp("profile") / "lab.yaml"
    path.write_text(PROFILE)
    return path


@pytest.fixture(autouse=True)
def _admin(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)


def failing(profile: Path, *overrides: str) -> list[Finding]:
    findings = list(examine(load_profile(profile, [f"profile.{text}" for text in overrides]), pods=False))
    assert all(bool(finding.mend) is not finding.ok for finding in findings)
    return [finding for finding in findings if not finding.ok]


@pytest.mark.parametrize("backend", ["pytorchjob", "mpijob", "trainjob"])
def test_a_cluster_with_the_overlay_is_well(profile: Path, backend: str) -> None:
    assert failing(profile, f"backend={backend}") == []


@pytest.mark.parametrize(
    ("override", "subject", "says", "mend"),
    [
        ("cluster.namespace=absent", "namespace", "there is no namespace absent", "kubectl apply -k"),
        ("cluster.fabric=ib", "namespace", "the fabric ib need privileged", "enforce=privileged"),
        ("cluster.queue=absent", "queue", "there is no LocalQueue absent in steerlm", "kubectl apply -k"),
        ("cluster.launcher.queue=absent", "queue", "LocalQueue absent in steerlm, the launcher's", "kubectl apply -k"),
        (
            "cluster.resources.extra={rdma/ib: '8'}",
            "queue",
            "ClusterQueue steerlm does not cover rdma/ib",
            '"nominalQuota": "256"',
        ),
        ("layouts.sft.nodes=33", "queue", "nvidia.com/gpu 264, quota 256", "kubectl edit clusterqueue steerlm"),
        (
            "layouts.sft.nodes=99",
            "nodes",
            "run a pod of 8 nvidia.com/gpu, the largest job has 99",
            "kubectl describe nodes",
        ),
        ("cluster.resources.memory=4000Gi", "nodes", "have less memory", "cluster.resources"),
        ("cluster.placement.tolerations=[]", "nodes", "0 of ", "kubectl describe nodes"),
        (
            "cluster.placement.restart_priority_class=absent",
            "queue",
            "there is no WorkloadPriorityClass absent",
            "kubectl apply -k",
        ),
        ("cluster.placement.priority_class=absent", "queue", "no WorkloadPriorityClass absent", "kubectl apply -k"),
        ("cluster.queue=null", "queue", "there is no PriorityClass steerlm-restart", "kubectl apply -k"),
        ("cluster.workspace.claim=absent", "workspace", "there is no claim absent", "kubectl apply -k"),
        ("cluster.images.tag=latest", "image", "names no tag or digest", "cluster.images.tag"),
    ],
)
def test_what_is_missing_is_named_with_what_mends_it(
    profile: Path, override: str, subject: str, says: str, mend: str
) -> None:
    found = failing(profile, override)
    assert [one for one in found if one.subject == subject and says in one.text and mend in one.mend], found


def test_who_may_see_little_is_told_so(
    cluster: Cluster, profile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig_of(cluster, "default", NAMESPACE, tmp_path / "default")))
    found = failing(profile)
    assert any("you may not create pods" in one.text for one in found)
    assert any("is forbidden" in one.text and "\n" not in one.text for one in found)


def test_expired_credentials_are_one_sentence(
    cluster: Cluster, profile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(cluster, "expired", tmp_path / "expired")))
    (found,) = failing(profile)
    assert "the credentials have expired or are wrong" in found.text and "\n" not in found.text
