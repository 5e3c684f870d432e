# SPDX-License-Identifier: Apache-2.0
"""docs/kubernetes.md: its overlay, secrets and commands, tried on the cluster."""

import re
import secrets
import shlex
from pathlib import Path

import pytest
import yaml

from steerlm.cli import main
from steerlm.recipe import Profile, load_profile
from tests.cluster.conftest import Cluster
from tests.cluster.platform import NAMESPACE, install
from tests.conftest import ROOT

pytestmark = pytest.mark.fast
PAGE = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^ {4}(kubectl (?:.*\\\n)*.*)$", PAGE, re.MULTILINE)


def test_the_page_names_the_overlays_that_there_are() -> None:
    named = set(re.findall(r"`manifests/overlays/([a-z]+)`", PAGE))
    assert named == {path.name for path in (ROOT / "manifests" / "overlays").iterdir()}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(str(command).split()[1:4]))
def test_a_kubectl_command_is_accepted(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """By the server's dry run: the lab keeps its own claim and its own security level."""
    install(cluster)
    (tmp_path / "secret-key.txt").write_text("secret")
    (tmp_path / "manifests").symlink_to(ROOT / "manifests")
    monkeypatch.chdir(tmp_path)
    new = f"steerlm-{secrets.token_hex(4)}-"  # other tests have made the page's Secrets
    words = shlex.split(command.replace("\\\n", " ").replace("generic steerlm-", f"generic {new}"))[1:]
    if "apply" in words:
        pytest.skip("tests/cluster/test_overlays.py applies every overlay in a fresh namespace")
    assert "dry run" in cluster.kubectl(*words, "--dry-run=server")


def profile_of_the_page(path: Path) -> Profile:
    (text,) = re.findall(r"```yaml cluster\.yaml\n(.*?)```", PAGE, re.DOTALL)
    path.write_text(text)
    return load_profile(path)


def test_the_doctor_knows_what_the_page_has_not_said_yet(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page's profile is right for nodes with real GPUs; here only a toleration of fake ones is missing."""
    install(cluster)
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    profile = profile_of_the_page(tmp_path / "cluster.yaml")
    assert profile.cluster.namespace == NAMESPACE
    content = yaml.safe_load((tmp_path / "cluster.yaml").read_text())
    fake = {"key": "kwok.x-k8s.io/node", "operator": "Exists"}
    content["cluster"]["placement"]["tolerations"] = [fake]
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(content))
    code = main.call(["doctor", "--profile", str(tmp_path / "cluster.yaml"), "--no-pods"])
    said = capsys.readouterr()
    assert code == 0, said.out
    subjects = {line.split()[1] for line in said.out.splitlines()}
    assert {
        "cluster",
        "PyTorchJob",
        "namespace",
        "access",
        "queue",
        "fabric",
        "nodes",
        "workspace",
        "image",
    } <= subjects
