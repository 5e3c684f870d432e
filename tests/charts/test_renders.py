# SPDX-License-Identifier: Apache-2.0
"""What the chart becomes: linted, equal to the renders in Git, valid for Kubernetes and the CRDs, and as documented."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

import steerlm
from tests.charts.render import CASES, CHART, GOLDEN, PROMETHEUS, Helm, readme, values

every_case = pytest.mark.parametrize("name", CASES)
Json = dict[str, Any]


@every_case
def test_lint(helm: Helm, name: str) -> None:
    done = helm.run("lint", "--strict", str(CHART), "--values", str(values(name)))
    assert done.returncode == 0, done.stdout + done.stderr


@every_case
def test_render(helm: Helm, name: str) -> None:
    assert helm.case(name) == (GOLDEN / f"{name}.yaml").read_text(), "make charts, and look at the difference in Git"


@every_case
def test_schemas(kubeconform: list[str], name: str) -> None:
    """Of Kubernetes, and of the CRDs; an unknown field or kind is an error."""
    text = (GOLDEN / f"{name}.yaml").read_text()
    done = subprocess.run(kubeconform, input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Invalid: 0, Errors: 0, Skipped: 0" in done.stdout


def test_a_wrong_field_is_found(kubeconform: list[str]) -> None:
    text = (GOLDEN / "everything.yaml").read_text()
    for right, wrong in (("maxReplicaCount:", "maxReplicasCount:"), ("podMetricsEndpoints:", "endpoints:")):
        assert right in text
        done = subprocess.run(kubeconform, input=text.replace(right, wrong), capture_output=True, text=True)
        assert done.returncode == 1, wrong


def test_readme(helm_docs: Path) -> None:
    text = (CHART / "README.md").read_text()
    assert readme(helm_docs) == text, "make charts"
    undocumented = re.findall(r"^\| ([\w.]+) \| \w+ \| .* \|  \|$", text, re.MULTILINE)
    assert undocumented == []


def test_every_value_is_in_the_schema() -> None:
    """With a description, in an object that takes no other key."""
    schema = json.loads((CHART / "values.schema.json").read_text())

    def resolved(found: Json) -> Json:
        ref: str | None = found.get("$ref")
        return schema["definitions"][ref.rpartition("/")[2]] if ref else found

    def check(value: Any, found: Json, path: str) -> None:
        assert resolved(found).get("description"), path
        if isinstance(value, dict) and "properties" in resolved(found):
            assert resolved(found)["additionalProperties"] is False, path
            for key, inner in value.items():
                check(inner, resolved(found)["properties"][key], f"{path}.{key}")

    for key, value in yaml.safe_load((CHART / "values.yaml").read_text()).items():
        check(value, schema["properties"][key], key)


def test_the_chart_is_of_this_release() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == chart["version"] == steerlm.__version__


def test_no_template_is_long() -> None:
    for path in (CHART / "templates").rglob("*.*"):
        assert len(path.read_text().splitlines()) <= 150, path


def test_monitoring_needs_its_kinds(helm: Helm) -> None:
    words = ("--values", str(values("cpu")))
    kinds = {one["kind"] for one in yaml.safe_load_all(helm.template(*words, *PROMETHEUS))}
    without = {one["kind"] for one in yaml.safe_load_all(helm.template(*words))}
    assert kinds - without == {"PodMonitor", "PrometheusRule"}


def test_a_pod_is_counted_once_where_vllm_s_metrics_are_read_too() -> None:
    """Prometheus then has an `up` for each port of a pod; whether the server answers is said by its own."""
    rules = [one for one in yaml.safe_load_all((GOLDEN / "everything.yaml").read_text()) if one]
    (monitor,) = [one for one in rules if one["kind"] == "PodMonitor"]
    assert [one["port"] for one in monitor["spec"]["podMetricsEndpoints"]] == ["http", "vllm"]
    (alerts,) = [one for one in rules if one["kind"] == "PrometheusRule"]
    expressions = [rule["expr"] for group in alerts["spec"]["groups"] for rule in group["rules"]]
    panels = json.loads((CHART / "files" / "dashboard.json").read_text())["panels"]
    expressions += [target["expr"] for panel in panels for target in panel.get("targets", [])]
    selectors = re.findall(r"\bup{([^}]*)}", "\n".join(expressions))
    assert len(selectors) == 5, "two alerts of each of two models, and a panel"
    assert all('endpoint!="vllm"' in selector for selector in selectors), selectors
    (scaled,) = [one for one in rules if one["kind"] == "ScaledObject"]
    expressions += [scaled["spec"]["triggers"][0]["metadata"]["query"]]
    queues = re.findall(r"\bvllm:num_requests_\w+{([^}]*)}", "\n".join(expressions))
    assert len(queues) == 5, "an alert of each model, two curves, and the scaler"
    assert all('engine="steerlm"' in queue for queue in queues), queues


def test_dashboard() -> None:
    panels = json.loads((CHART / "files" / "dashboard.json").read_text())["panels"]
    assert len({panel["title"] for panel in panels}) == len(panels) > 8
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(places)
