# SPDX-License-Identifier: Apache-2.0
"""The InferenceServices are valid for KServe's own CRD, and their servers are started as the chart starts them."""

import subprocess
from typing import Any

import pytest
import yaml

from tests.charts.render import GOLDEN
from tests.conftest import ROOT

FOLDER = ROOT / "manifests" / "serving" / "kserve"
KINDS = ("policy", "reward")
Json = dict[str, Any]


def predictor(kind: str) -> Json:
    found: Json = yaml.safe_load((FOLDER / f"{kind}.yaml").read_text())["spec"]["predictor"]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_schema(kubeconform: list[str], kind: str) -> None:
    text = (FOLDER / f"{kind}.yaml").read_text()
    done = subprocess.run(kubeconform, input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    wrong = text.replace("minReplicas:", "minReplica:")
    refused = subprocess.run(kubeconform, input=wrong, capture_output=True, text=True)
    assert "minReplica" in refused.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_the_server_is_started_as_the_chart_starts_it(kind: str) -> None:
    (deployment,) = (
        one
        for one in yaml.safe_load_all((GOLDEN / "cpu.yaml").read_text())
        if (one["kind"], one["metadata"]["name"]) == ("Deployment", f"steerlm-{kind}")
    )
    (chart,) = deployment["spec"]["template"]["spec"]["containers"]
    (kserve,) = predictor(kind)["containers"]
    for key in ("image", "command", "lifecycle", "securityContext", "terminationMessagePolicy"):
        assert kserve[key] == chart[key], key
    assert {probe: kserve[probe]["httpGet"]["path"] for probe in kserve if probe.endswith("Probe")} == {
        probe: chart[probe]["httpGet"]["path"] for probe in chart if probe.endswith("Probe")
    }
    own = {word for word in chart["args"] if word.startswith("--") and not word.startswith(("--name", "--reward-url"))}
    assert own == {word for word in kserve["args"] if word.startswith("--")}
    spec = deployment["spec"]["template"]["spec"]
    assert predictor(kind)["terminationGracePeriodSeconds"] == spec["terminationGracePeriodSeconds"]


def test_kustomization() -> None:
    found = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    assert found["resources"] == [f"{kind}.yaml" for kind in KINDS]
    for kind, patch in zip(KINDS, found["patches"], strict=True):
        (operation,) = yaml.safe_load(patch["patch"])
        assert patch["target"]["name"] == f"steerlm-{kind}"
        assert operation["path"] == "/spec/predictor/initContainers/0/args/0"
        assert f"/{kind}@sha256:" in operation["value"]
        assert predictor(kind)["initContainers"][0]["args"][0].endswith(f"/{kind}@sha256:DIGEST")
