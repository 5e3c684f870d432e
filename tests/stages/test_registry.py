# SPDX-License-Identifier: Apache-2.0
"""The registry is the one list of steps: the Kubeflow pipeline, the stages and the recipe's sections agree with it."""

import subprocess
import sys
from importlib import import_module

import pytest

from steerlm.errors import ConfigError
from steerlm.recipe import Recipe, load_recipe
from steerlm.stages.registry import (
    NO_SECTION,
    NOT_REQUESTED,
    STEPS,
    find_step,
    input_titles,
    requested_steps,
    select_sections,
    skip_reason,
)
from tests.conftest import ROOT
from tests.pipelines.test_compiled import graph


def test_the_kubeflow_pipeline_chains_the_steps_as_the_registry_does() -> None:
    chained = {label: {name: tuple(steps) for name, steps in inputs.items()} for label, inputs in graph().items()}
    # The baseline is chained with the plain data in place of the annotated.
    assert chained["train_baseline"].pop("data") == ("prepare_data", "prepare_data")
    expected = {name: dict(step.inputs) for name, step in STEPS.items()}
    assert expected["train_baseline"].pop("data") == ("prepare_data",)
    assert chained == expected


def test_every_module_of_a_stage_is_registered() -> None:
    modules = {path.stem for path in (ROOT / "steerlm" / "stages").glob("*.py")}
    stages = {name for name in modules if hasattr(import_module(f"steerlm.stages.{name}"), "STAGE")}
    assert stages == {step.stage for step in STEPS.values()}


def test_a_step_comes_after_what_it_needs_and_passes_on_an_input() -> None:
    order = list(STEPS)
    for name, step in STEPS.items():
        assert all(order.index(p) < order.index(name) for producers in step.inputs.values() for p in producers)
        assert step.passes_on is None or step.passes_on in step.inputs


def test_importing_the_registry_imports_no_stage() -> None:
    script = (
        "import sys, steerlm.stages.registry;"
        "print([m for m in ('pydantic', 'yaml', 'numpy', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("until", "left"),
    [
        ("prepare_data", []),
        ("train_base", ["base"]),
        ("train_reward", ["base", "reward"]),
        ("train_sft", ["base", "reward", "annotate", "sft"]),
        ("report", ["base", "reward", "annotate", "sft", "baseline", "evaluate", "report"]),
    ],
)
def test_sections_of_steps_not_requested_are_left_out(until: str, left: list[str]) -> None:
    recipe = select_sections(load_recipe("demo").recipe, until)
    sections = ("base", "reward", "annotate", "sft", "baseline", "evaluate", "report")
    assert [s for s in sections if getattr(recipe, s) is not None] == left
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


@pytest.mark.parametrize(
    ("until", "steps"),
    [
        ("fetch_model", {"fetch_model"}),
        ("train_base", {"prepare_data", "fetch_model", "train_base"}),
        ("fetch_reward_base", {"fetch_reward_base"}),
        ("train_baseline", {"prepare_data", "fetch_model", "train_base", "train_baseline"}),
        (None, set(STEPS)),
    ],
)
def test_a_step_is_requested_with_what_it_needs(until: str | None, steps: set[str]) -> None:
    assert requested_steps(until) == steps


def test_fetching_the_model_does_not_train_the_base() -> None:
    recipe = load_recipe("demo", None, ["base.fetch={uri: /model}"]).recipe
    selected = select_sections(recipe, "fetch_model")
    assert selected.base is not None
    assert selected.base.fetch is not None
    assert selected.base.train is None
    assert skip_reason("train_base", recipe.model_dump(mode="json"), "fetch_model") == NOT_REQUESTED


def test_the_reason_of_a_skipped_step() -> None:
    recipe = load_recipe("demo").recipe.model_dump(mode="json")
    assert skip_reason("fetch_model", recipe, None) == NO_SECTION
    assert skip_reason("train_sft", recipe, "train_reward") == NOT_REQUESTED
    assert skip_reason("train_reward", recipe, "train_reward") is None


def test_an_unknown_step_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown stage 'train_rewrd'; did you mean 'train_reward'"):
        find_step("train_rewrd")
    with pytest.raises(ConfigError, match="unknown stage 'train_rewrd'; did you mean 'train_reward'"):
        requested_steps("train_rewrd")


def test_the_report_names_its_inputs_by_title() -> None:
    assert input_titles("report") == {
        "data": "data",
        "base": "base model",
        "reward": "reward model",
        "annotated": "annotated data",
        "policy": "policy",
        "baseline": "baseline without attributes",
        "evaluation": "evaluation",
    }
