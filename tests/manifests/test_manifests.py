# SPDX-License-Identifier: Apache-2.0
"""Invariants of the YAML in manifests/. That a cluster accepts it is tested in tests/cluster/test_overlays.py."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from steerlm.jobs.kubernetes import permissions
from steerlm.jobs.kubernetes.config import ClusterSettings, Fabric, ImageSettings
from steerlm.jobs.kubernetes.images import reference
from steerlm.jobs.kubernetes.labels import COMPONENT, JOB
from steerlm.jobs.kubernetes.pod import POD_SECURITY, resources
from steerlm.jobs.kubernetes.quantity import amount
from tests.conftest import ROOT

MANIFESTS = ROOT / "manifests"
FOLDERS = ("base", "components", "overlays")
DEFAULTS = ClusterSettings()
Json = dict[str, Any]


def yaml_files() -> list[Path]:
    return sorted(path for name in FOLDERS for path in (MANIFESTS / name).rglob("*.yaml"))


def objects(kind: str | None = None) -> list[Json]:
    """The objects of all files but kustomizations; of one kind."""
    found = []
    for path in yaml_files():
        if path.name != "kustomization.yaml":
            found += list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    return [one for one in found if kind in (None, one["kind"])]


def named(kind: str, name: str) -> Json:
    (found,) = [one for one in objects(kind) if one["metadata"]["name"] == name]
    return found


def pod_specs() -> Iterator[tuple[str, Json]]:
    """The pod specs by the name of the object that makes pods of them."""
    for one in objects():
        spec = one.get("spec", {})
        template = spec["jobTemplate"]["spec"]["template"] if one["kind"] == "CronJob" else spec.get("template")
        if template:
            yield one["metadata"]["name"], template["spec"]


PODS = dict(pod_specs())
CONTAINERS = {
    f"{name}/{container['name']}": container
    for name, spec in PODS.items()
    for container in (*spec.get("initContainers", []), *spec["containers"])
}


def test_there_are_pods() -> None:
    assert set(PODS) == {"steerlm-reaper", "steerlm-prepull", "steerlm-minio", "steerlm-mlflow"}


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_container_has_equal_requests_and_limits_and_no_rights(name: str) -> None:
    container = CONTAINERS[name]
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert {"cpu", "memory", "ephemeral-storage"} <= set(container["resources"]["requests"])
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    tag = container["image"].rpartition("/")[2].partition(":")[2]
    assert tag not in ("", "latest"), container["image"]


@pytest.mark.parametrize("name", PODS)
def test_a_pod_is_no_root_and_has_a_token_only_if_it_calls_the_api_server(name: str) -> None:
    spec = PODS[name]
    assert spec["automountServiceAccountToken"] is (name == "steerlm-reaper")
    assert spec["enableServiceLinks"] is False
    security = spec["securityContext"]
    assert security["runAsNonRoot"] is True and security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert (security["runAsUser"], security["runAsGroup"]) == (DEFAULTS.uid, DEFAULTS.gid)
    accounts = {one["metadata"]["name"]: one for one in objects("ServiceAccount")}
    assert spec["serviceAccountName"] in accounts


def test_service_accounts_hand_out_no_token_by_themselves() -> None:
    accounts = objects("ServiceAccount")
    assert DEFAULTS.launcher.service_account in [one["metadata"]["name"] for one in accounts]
    assert all(one["automountServiceAccountToken"] is False for one in accounts)


def test_names_are_the_defaults_of_a_profile() -> None:
    assert [one["metadata"]["name"] for one in objects("Namespace")] == [DEFAULTS.namespace]
    claim = named("PersistentVolumeClaim", DEFAULTS.workspace.claim)
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    own = [one for one in objects() if one["metadata"]["name"] != "training-operator-init-container"]
    fabrics = {one["metadata"]["name"]: one["data"] for one in own if one["kind"] == "ConfigMap"}
    assert set(fabrics) == {f"steerlm-fabric-{fabric}" for fabric in get_args(Fabric)}
    assert all(isinstance(value, str) for data in fabrics.values() for value in data.values())
    namespaces = {one["metadata"].get("namespace", DEFAULTS.namespace) for one in own}
    assert namespaces == {DEFAULTS.namespace}


def test_the_namespace_admits_the_default_fabric_and_no_more() -> None:
    labels = named("Namespace", DEFAULTS.namespace)["metadata"]["labels"]
    levels = {value for key, value in labels.items() if key.startswith("pod-security.kubernetes.io/")}
    assert levels == {POD_SECURITY[DEFAULTS.fabric]}


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        ("Role", "steerlm-launcher", permissions.LAUNCHER),
        ("ClusterRole", "steerlm-launcher", permissions.LAUNCHER_CLUSTER),
        ("Role", "steerlm-reaper", permissions.REAPER),
    ],
)
def test_roles_grant_what_the_list_of_permissions_says(
    kind: str, name: str, expected: tuple[permissions.AccessRule, ...]
) -> None:
    granted = {
        (group, resource, verb)
        for rule in named(kind, name)["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert granted == {(rule.group, name, verb) for rule in expected for name in rule.resources for verb in rule.verbs}
    assert not any("*" in part for rule in granted for part in rule)


def test_every_role_is_bound_to_its_account() -> None:
    for kind in ("Role", "ClusterRole"):
        for role in objects(kind):
            name = role["metadata"]["name"]
            binding = named(f"{kind}Binding", name)
            assert binding["roleRef"]["kind"] == kind and binding["roleRef"]["name"] == name
            assert binding["subjects"] == [{"kind": "ServiceAccount", "name": name, "namespace": DEFAULTS.namespace}]


def test_the_queue_admits_a_job_of_32_nodes_of_a_default_profile() -> None:
    queue = named("LocalQueue", "steerlm")["spec"]["clusterQueue"]
    (group,) = named("ClusterQueue", queue)["spec"]["resourceGroups"]
    (flavor,) = group["flavors"]
    quota = {one["name"]: amount(one["nominalQuota"]) for one in flavor["resources"]}
    assert set(quota) == set(group["coveredResources"])
    for name, value in resources(DEFAULTS, 8).items():
        assert 32 * amount(value) <= quota[name], name
    assert quota["nvidia.com/gpu"] == 256, "33 nodes are refused"
    flavors = {one["metadata"]["name"] for one in objects("ResourceFlavor")}
    used = {
        flavor["name"]
        for one in objects("ClusterQueue")
        for group in one["spec"]["resourceGroups"]
        for flavor in group["flavors"]
    }
    assert used == flavors


def test_launchers_have_a_queue_without_gpus() -> None:
    queue = named("LocalQueue", "steerlm-launchers")["spec"]["clusterQueue"]
    (group,) = named("ClusterQueue", queue)["spec"]["resourceGroups"]
    assert set(group["coveredResources"]) == {"cpu", "memory", "ephemeral-storage", "pods"}
    (flavor,) = group["flavors"]
    quota = {one["name"]: amount(one["nominalQuota"]) for one in flavor["resources"]}
    assert amount(DEFAULTS.launcher.cpu) <= quota["cpu"] and amount(DEFAULTS.launcher.memory) <= quota["memory"]


def test_network_policies_deny_by_default_and_select_labels_that_pods_have() -> None:
    deny = named("NetworkPolicy", "steerlm-default-deny")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    jobs = named("NetworkPolicy", "steerlm-jobs")["spec"]
    selector = {"matchExpressions": [{"key": JOB, "operator": "Exists"}]}
    assert jobs["podSelector"] == selector
    assert jobs["ingress"] == [{"from": [{"podSelector": selector}]}], "all ports"
    assert jobs["egress"] == [{"to": [{"podSelector": selector}]}]
    for component in ("launcher", "reaper", "minio", "mlflow"):
        selected = named("NetworkPolicy", f"steerlm-{component}")["spec"]["podSelector"]
        assert selected == {"matchLabels": {COMPONENT: component}}


def test_the_reaper_runs_a_module_that_exists() -> None:
    command = CONTAINERS["steerlm-reaper/reaper"]["command"]
    assert command[:2] == ["python", "-m"] and find_spec(command[2])


def test_our_images_are_those_of_this_release() -> None:
    ours = [container["image"] for container in CONTAINERS.values() if "/steerlm/" in container["image"]]
    assert len(ours) == 6
    for image in ours:
        name = image.rpartition("/")[2].partition(":")[0].partition("@")[0]
        assert image == reference(name, ImageSettings())


def test_every_file_belongs_to_a_kustomization() -> None:
    listed = set()
    for path in yaml_files():
        if path.name == "kustomization.yaml":
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            for name in (*content.get("resources", []), *content.get("components", [])):
                assert (path.parent / name).exists(), f"{path}: {name}"
                listed.add((path.parent / name).resolve())
    assert {path for path in yaml_files() if path.name != "kustomization.yaml"} <= listed


def test_no_secret_is_shipped() -> None:
    assert objects("Secret") == []
