# SPDX-License-Identifier: Apache-2.0
"""The compiled pipeline is the committed one, and it fits the stages."""

import functools
import re
from pathlib import Path
from typing import Any

import yaml

from steerlm.jobs.kubernetes.images import reference
from steerlm.stages.registry import STEPS
from tests.conftest import ROOT

COMPILED = ROOT / "pipelines" / "compiled" / "steerlm.yaml"


@functools.cache
def spec() -> dict[str, Any]:
    content: dict[str, Any] = next(yaml.safe_load_all(COMPILED.read_text()))
    return content


@functools.cache
def graph() -> dict[str, dict[str, list[str]]]:
    """Return, in pipeline order, the steps that may provide each input of a step's stage, the preferred one first.

    Read from the compiled pipeline. A component with two parameters for one input of its stage has them in `groups`.
    """
    groups = {"own_base": "base", "annotated": "data"}
    tasks = spec()["root"]["dag"]["tasks"]
    labels = {name: task["taskInfo"]["name"] for name, task in tasks.items()}
    chained: dict[str, dict[str, list[str]]] = {}
    for name, task in tasks.items():
        label = labels[name]
        inputs: dict[str, list[str]] = {}
        for key, value in task["inputs"].get("artifacts", {}).items():
            producer = labels[value["taskOutputArtifact"]["producerTask"]]
            role = groups.get(key, key) if label in ("train_reward", "train_sft", "train_baseline") else key
            inputs.setdefault(role, [])
            if key in groups:
                inputs[role].insert(0, producer)
            else:
                inputs[role].append(producer)
        chained[label] = inputs
    return {label: chained[label] for label in STEPS}


def test_the_committed_yaml_is_what_the_pipeline_compiles_to(tmp_path: Path) -> None:
    from steerlm_kfp.pipelines.compile import compile_all

    for path in compile_all(tmp_path):
        committed = COMPILED.with_name(path.name)
        assert committed.read_text() == path.read_text(), "run `make compile` and commit what it writes"


def test_every_step_is_a_task_and_comes_after_what_it_reads() -> None:
    order = list(STEPS)
    for label, inputs in graph().items():
        for producers in inputs.values():
            assert all(order.index(p) < order.index(label) for p in producers)


def test_the_engine_caches_nothing_and_installs_nothing() -> None:
    pipeline = spec()
    for task in pipeline["root"]["dag"]["tasks"].values():
        assert task["cachingOptions"] == {}, "enableCache is off"
    stages = {path.parent.name.replace("_", "-") for path in (ROOT / "components").glob("*/component.py")}
    for name, executor in pipeline["deploymentSpec"]["executors"].items():
        assert "pip install" not in str(executor["container"])
        (stage,) = {stage for stage in stages if re.fullmatch(rf"exec-{stage}(-\d+)?", name)}
        assert executor["container"]["image"] == reference(stage)


def test_every_stage_has_a_component_whose_readme_names_its_parameters() -> None:
    folders = [p for p in (ROOT / "components").iterdir() if (p / "component.py").exists()]
    assert {p.name for p in folders} == {step.stage for step in STEPS.values()}
    for folder in folders:
        readme = (folder / "README.md").read_text()
        for parameter in _parameters(folder.name):
            assert f"`{parameter}`" in readme


def _parameters(name: str) -> list[str]:
    definition = next(v for k, v in spec()["components"].items() if k == f"comp-{name.replace('_', '-')}")
    kinds = [definition["inputDefinitions"].get(k, {}) for k in ("parameters", "artifacts")]
    return [p for kind in kinds for p in kind] + list(definition["outputDefinitions"]["artifacts"])
