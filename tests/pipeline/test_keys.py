# SPDX-License-Identifier: Apache-2.0
"""Keys change exactly when they should, in a symbolic run of the pipeline: each artifact's digest is its key."""

import dataclasses
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from steerlm.artifact import Artifact
from steerlm.pipeline.keys import explain, key_of, key_parts
from steerlm.recipe import load_recipe, shipped
from steerlm.stages.registry import STEPS
from tests.pipelines.test_compiled import graph

ALL = set(STEPS) - {"fetch_model", "fetch_reward_base"}
AFTER_REWARD = {"train_reward", "annotate", "train_sft", "evaluate", "report"}
AFTER_SFT = {"train_sft", "evaluate", "report"}


def keys(name: str, *overrides: str) -> dict[str, str]:
    """Return the key of every step of a recipe that applies."""
    recipe = load_recipe(name, None, overrides).recipe
    artifacts: dict[str, Artifact] = {}
    for label, inputs in graph().items():
        step = STEPS[label]
        module = import_module(f"steerlm.stages.{step.stage}")
        given = {n: artifacts[first] for n, producers in inputs.items() if (first := _first(producers, artifacts))}
        config = module.config(recipe, step.role)
        if config is None:
            if step.passes_on in given:
                artifacts[label] = given[step.passes_on]
            continue
        key = key_of(key_parts(module.STAGE, config, given))
        artifacts[label] = Artifact(module.STAGE.kind, key, "", Path(), key, None)  # type: ignore[arg-type]
    return {label: artifact.key for label, artifact in artifacts.items()}


def _first(candidates: list[str], artifacts: dict[str, Artifact]) -> str | None:
    return next((c for c in candidates if c in artifacts), None)


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("prepare_data.sources.0.seed=7", ALL),
        ("base.train.optimizer.lr=1.2345e-3", ALL - {"prepare_data"}),
        ("reward.optimizer.lr=1.2345e-3", AFTER_REWARD),
        ("annotate.turns=labeled", AFTER_REWARD - {"train_reward"}),
        ("sft.optimizer.lr=1.2345e-3", AFTER_SFT),
        ("sft.repeat=2", AFTER_SFT),
        ("baseline.max_steps=7", {"train_baseline", "evaluate", "report"}),
        ("evaluate.seed=7", {"evaluate", "report"}),
        ("report.goals.reward_pearson=0.1", {"report"}),
        ("attributes.defaults.quality=3", AFTER_SFT),
        # Settings of where and how fast.
        ("annotate.batch_tokens=64", set()),
        ("profile.layouts.sft.devices=2", set()),
        ("profile.store=elsewhere", set()),
        ("profile.jobs.attempts=3", set()),
    ],
)
def test_a_setting_re_runs_what_depends_on_it(override: str, changed: set[str]) -> None:
    before, after = keys("demo"), keys("demo", override)
    assert before.keys() == after.keys() == ALL
    assert {label for label in ALL if before[label] != after[label]} == changed


def test_a_description_changes_the_report_only() -> None:
    before, after = keys("demo"), keys("demo", "description=x")
    assert {label for label in ALL if before[label] != after[label]} == {"report"}


def test_the_content_of_local_input_counts_not_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for place in ("one", "two"):
        (tmp_path / place / "model").mkdir(parents=True)
        (tmp_path / place / "data.jsonl").write_text('{"x": 1}\n')
        (tmp_path / place / "model" / "config.json").write_text("{}")

    def at(place: str) -> dict[str, str]:
        folder = tmp_path / place
        sources = f"prepare_data.sources=[{{kind: conversations, source: {folder / 'data.jsonl'}}}]"
        return keys("demo-real", sources, f"base.fetch.uri={folder / 'model'}")

    assert at("one") == at("two")
    one = at("one")
    (tmp_path / "one" / "data.jsonl").write_text('{"x": 2}\n')
    assert at("one")["prepare_data"] != one["prepare_data"]
    assert at("one")["fetch_model"] == one["fetch_model"]


def test_code_is_in_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys("demo")
    stage = import_module("steerlm.stages.train_reward").STAGE
    monkeypatch.setattr("steerlm.stages.train_reward.STAGE", dataclasses.replace(stage, code=("steerlm.prompt",)))
    assert keys("demo") == before


def test_a_raised_version_re_runs_the_stage_and_what_depends_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys("demo")
    stage = import_module("steerlm.stages.train_reward").STAGE
    monkeypatch.setattr("steerlm.stages.train_reward.STAGE", dataclasses.replace(stage, version=stage.version + 1))
    after = keys("demo")
    assert {label for label in ALL if before[label] != after[label]} == AFTER_REWARD


def test_every_shipped_recipe_has_keys() -> None:
    for name in shipped("recipes"):
        named = keys(name)
        assert "prepare_data" in named
        assert ("train_sft" in named) == (name != "helpsteer2-70b")
    llama2 = keys("steerlm-llama2")
    assert llama2["fetch_model"] != llama2["fetch_reward_base"]


def parts(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "stage": "s",
        "version": 1,
        "config": {"lr": 0.1, "n": [1]},
        "inputs": {"data": "d"},
    }
    return base | changes


@pytest.mark.parametrize(
    ("records", "why"),
    [
        ([], "never run before"),
        ([parts(version=0)], "the stage's version changed from 0 to 1"),
        ([parts(config={"lr": 0.2, "n": [1]})], "lr changed from 0.2 to 0.1"),
        ([parts(config={"lr": 0.1, "n": [1, 2]})], "n.1 changed from 2 to None"),
        ([parts(inputs={"data": "e"})], "its input data changed"),
        ([parts(version=0, inputs={"data": "e"}), parts(version=0)], "the stage's version changed from 0 to 1"),
        (
            [parts(version=0, inputs={"data": "e"}, config={"lr": 0.2, "n": [2]})],
            "the stage's version changed from 0 to 1; lr changed from 0.2 to 0.1; n.0 changed from 2 to 1 and 1 more",
        ),
    ],
)
def test_the_reason_names_the_differences(records: list[dict[str, Any]], why: str) -> None:
    assert explain(parts(), [r | {"started": "then"} for r in records]) == why
