# SPDX-License-Identifier: Apache-2.0
"""Every overlay passes kubeconform with the schemas of the installed versions, and the API server's dry run."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from steerlm.jobs.kubernetes.client import Cluster as Connection
from steerlm.jobs.kubernetes.probe import check_rights
from tests.cluster.conftest import Cluster
from tests.cluster.platform import NAMESPACE, OVERLAYS, install, kubeconfig_of, overlay
from tests.cluster.schemas import LOCATION, write_schemas

pytestmark = pytest.mark.fast
NAMES = sorted(path.name for path in OVERLAYS.iterdir())
BUILT = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "steerlm-lab" / "bin" / "kubeconform"


@pytest.fixture(scope="module")
def schemas(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("schemas")
    assert write_schemas(cluster, folder) > 150
    return folder


def kubeconform(schemas: Path, text: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("kubeconform") or str(BUILT)
    command = [program, "-strict", "-schema-location", f"{schemas}/{LOCATION}", "-output", "text", "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True)


@pytest.mark.parametrize("name", NAMES)
def test_an_overlay_has_the_fields_of_the_installed_versions(cluster: Cluster, schemas: Path, name: str) -> None:
    text = cluster.kubectl("kustomize", str(OVERLAYS / name))
    done = kubeconform(schemas, text)
    assert done.returncode == 0, done.stdout
    wrong = text.replace("serviceAccountName:", "serviceAccuntName:")
    assert wrong != text
    refused = kubeconform(schemas, wrong)
    assert refused.returncode == 1 and "serviceAccuntName" in refused.stdout


@pytest.mark.parametrize("name", NAMES)
def test_the_api_server_accepts_an_overlay(cluster: Cluster, namespace: str, name: str) -> None:
    """In a fresh namespace: a claim of the real one cannot be changed into that of another overlay."""
    objects = [one for one in overlay(cluster, name, namespace) if one["kind"] != "Namespace"]
    said = cluster.kubectl(
        "apply",
        "--server-side",
        "--force-conflicts",
        "--dry-run=server",
        "-f",
        "-",
        stdin=json.dumps({"kind": "List", "apiVersion": "v1", "items": objects}),
    )
    assert said.count("(server dry run)") == len(objects)


def test_pods_of_the_overlays_meet_the_level_restricted(cluster: Cluster) -> None:
    """The namespace's label makes the API server warn of a template that its pods will be refused for."""
    install(cluster)
    for name in NAMES:
        workloads = [one for one in overlay(cluster, name) if one["kind"] in ("CronJob", "DaemonSet", "StatefulSet")]
        command = ["kubectl", "--kubeconfig", str(cluster.kubeconfig), "apply", "--server-side", "--force-conflicts"]
        done = subprocess.run(
            [*command, "--dry-run=server", "-f", "-"],
            input=json.dumps({"kind": "List", "apiVersion": "v1", "items": workloads}),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0 and "PodSecurity" not in done.stderr, done.stderr


def test_the_launcher_has_its_rights_and_the_reaper_has_not(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(cluster)
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig_of(cluster, "steerlm-launcher", NAMESPACE, tmp_path / "launcher")))
    launcher = check_rights(Connection(), NAMESPACE)
    assert launcher.ok, launcher.text
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig_of(cluster, "steerlm-reaper", NAMESPACE, tmp_path / "reaper")))
    reaper = check_rights(Connection(), NAMESPACE)
    assert not reaper.ok and "create pytorchjobs.kubeflow.org" in reaper.text
    assert "delete pytorchjobs" not in reaper.text
