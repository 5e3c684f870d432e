# SPDX-License-Identifier: Apache-2.0
"""The doctor on this machine, and what it says of a cluster that it cannot reach. On a real one: tests/cluster."""

import json
import socket
from pathlib import Path

import pytest

from steerlm.cli import main
from steerlm.jobs.finding import Finding, from_json
from steerlm.pipeline.doctor import examine
from steerlm.recipe import load_profile, load_recipe


def findings(name: str = "laptop", *overrides: str) -> dict[str, Finding]:
    return {finding.subject: finding for finding in examine(load_profile(name, overrides))}


def test_this_machine_is_well(tmp_path: Path) -> None:
    found = findings("laptop", f"profile.store={tmp_path / 'store'}")
    assert list(found) == ["python", "torch", "gpu", "memory", "store", "disk", "mlflow"]
    assert all(finding.ok for finding in found.values())
    assert list(tmp_path.iterdir()) == [], "the store's folder is not made"


def test_gpus_and_nodes_that_are_not_there(tmp_path: Path) -> None:
    large = ("profile.gpu=h100", "profile.layouts.sft.nodes=32", "profile.layouts.sft.devices=8")
    found = findings("laptop", f"profile.store={tmp_path}", "profile.tracking.enabled=false", *large)
    assert "the back end local has one node, a layout of the profile laptop has 32" in found["profile"].text
    assert not found["gpu"].ok and "0 GPUs; a layout of the profile laptop has 8" in found["gpu"].text
    assert found["mlflow"].text == "tracking is off in the profile"


def test_a_recipe_that_is_too_large_for_this_machine(tmp_path: Path) -> None:
    overrides = [f"profile.store={tmp_path}", "base.train.shape.num_hidden_layers=100000"]
    resolved = load_recipe("demo", None, overrides)
    found = {finding.subject: finding for finding in examine(resolved.profile, resolved)}
    assert not found["memory"].ok and not found["disk"].ok
    assert "the recipe's trainings hold" in found["memory"].text and "the recipe needs" in found["disk"].text


def test_a_cluster_without_credentials_and_one_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    absent = findings("laptop", "profile.backend=pytorchjob")["cluster"]
    assert not absent.ok and "no access to a Kubernetes cluster" in absent.text and "KUBECONFIG" in absent.mend
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server = f"https://127.0.0.1:{free.getsockname()[1]}"
    config = {
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    (tmp_path / "config").write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    silent = findings("laptop", "profile.backend=pytorchjob")["cluster"]
    assert not silent.ok and silent.text.startswith("no answer from the API server: ") and "\n" not in silent.text


def test_the_exit_status_says_whether_all_is_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile = ["--set", f"profile.store={tmp_path}", "--set", "profile.tracking.enabled=false"]
    assert main.call(["doctor", "--profile", "one-gpu", "--json", *profile]) == 1
    said = capsys.readouterr()
    assert [finding.subject for finding in from_json(said.out) if not finding.ok] == ["gpu"]
    assert said.err == "1 of 7 checks failed\n"
    assert main.call(["doctor", "--profile", "one-gpu", *profile]) == 1
    assert "to mend it: nvidia-smi" in capsys.readouterr().out
