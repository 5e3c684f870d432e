# SPDX-License-Identifier: Apache-2.0
"""A pipeline step as a component calls it: artifacts in and out by metadata, skipped steps, exit codes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from steerlm.artifact import Store
from steerlm.pipeline.step import run_step
from steerlm.recipe import Profile, Recipe, load_recipe, shipped
from steerlm.stages.registry import STEPS, skip_reason
from tests.conftest import ROOT


class FakeEngineArtifact:
    """An artifact as KFP passes it to a component."""

    def __init__(self, folder: Path, name: str, **metadata: Any) -> None:
        self.path, self.metadata = str(folder / name), dict(metadata)


LINE = {
    "conversations": [
        {"value": "What is ice?", "from": "User", "label": None},
        {"value": "Frozen water.", "from": "Assistant", "label": "quality:3,toxicity:0"},
    ],
    "system": "Be kind.",
    "mask": "User",
    "type": "VALUE_TO_TEXT",
}


@pytest.fixture
def resolved(tmp_path: Path) -> tuple[Recipe, Profile]:
    data = tmp_path / "data"
    data.mkdir()
    for name, count in (("train", 5), ("val", 2)):
        (data / f"{name}.jsonl").write_text((json.dumps(LINE) + "\n") * count)
    overrides = [
        f"prepare_data.sources=[{{kind: conversations, source: {data}}}]",
        "prepare_data.questions=null",
        "reward.global_batch=1",  # small data, which the recipe has to fit
        "sft.global_batch=1",
        "evaluate.questions=1",
        f"profile.store={tmp_path / 'store'}",
        "profile.tracking.enabled=false",
    ]
    loaded = load_recipe("demo-real", None, overrides)
    return loaded.recipe, loaded.profile


def step(
    label: str,
    resolved: tuple[Recipe, Profile],
    folder: Path,
    inputs: dict[str, list[FakeEngineArtifact]] | None = None,
) -> FakeEngineArtifact:
    output = FakeEngineArtifact(folder, label)
    recipe, profile = resolved
    run_step(label, recipe.model_dump_json(), profile.model_dump_json(), inputs or {}, output)
    return output


def test_an_artifact_is_passed_by_address(resolved: tuple[Recipe, Profile], tmp_path: Path) -> None:
    output = step("prepare_data", resolved, tmp_path)
    artifact = Store(tmp_path / "store").open("prepare_data", output.metadata["key"])
    assert output.metadata == {
        "stage": "prepare_data",
        "kind": "data",
        "uri": artifact.uri,
        "key": artifact.key,
        "digest": artifact.digest,
    }
    assert json.loads(Path(output.path).read_text()) == artifact.manifest.model_dump(mode="json")
    assert {p.name: p.read_text().count("\n") for p in artifact.path.glob("*.jsonl")} == {
        "train.jsonl": 5,
        "val.jsonl": 2,
        "regression_train.jsonl": 5,
        "regression_val.jsonl": 2,
        "questions.jsonl": 1,
    }
    sample = json.loads((artifact.path / "regression_val.jsonl").read_text().splitlines()[0])
    assert sample["label"] == [3.0, 0.0, -100.0, -100.0]
    assert json.loads((artifact.path / "questions.jsonl").read_text()) == {"question": "What is ice?"}


def test_a_step_without_a_section_is_skipped_and_is_no_input(resolved: tuple[Recipe, Profile], tmp_path: Path) -> None:
    skipped = step("fetch_reward_base", resolved, tmp_path)
    assert skipped.metadata == {"skipped": "true"}
    # `train_base` passes on the fetched model if the recipe trains none.
    fetched = FakeEngineArtifact(tmp_path, "m", stage="fetch_model", key="k", digest="d", uri="u", kind="base")
    assert step("train_base", resolved, tmp_path, {"base": [skipped, fetched]}).metadata == fetched.metadata
    assert step("train_baseline", resolved, tmp_path).metadata == {"skipped": "true"}


def test_an_input_that_was_replaced_is_rejected(
    resolved: tuple[Recipe, Profile], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = step("prepare_data", resolved, tmp_path)
    data.metadata["digest"] = "0" * 64
    with pytest.raises(SystemExit) as stopped:
        step("annotate", resolved, tmp_path, {"data": [data]})
    assert stopped.value.code == 1


def test_bad_input_exits_with_2(resolved: tuple[Recipe, Profile], tmp_path: Path) -> None:
    (tmp_path / "data" / "val.jsonl").write_text('{"conversations": []}\n')
    with pytest.raises(SystemExit) as stopped:
        step("prepare_data", resolved, tmp_path)
    assert stopped.value.code == 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_is_recorded_in_the_run_log(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """The demo's world takes seconds to make; the step is stopped during that time."""
    run_log = tmp_path / "run_log.jsonl"
    script = (
        "from tests.pipeline.test_step import *; import logging;"
        f"loaded = load_recipe('demo', None, ['profile.store={tmp_path / 'store'}']);"
        f"step('prepare_data', (loaded.recipe, loaded.profile), Path({str(tmp_path)!r}))"
    )
    environment = os.environ | {"STEERLM_RUN_LOG": str(run_log)}
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not (run_log.exists() and '"start"' in run_log.read_text()):
        assert time.monotonic() < end
        time.sleep(0.05)
    os.kill(process.pid, number)
    assert process.wait(30) == code
    events = [json.loads(line) for line in run_log.read_text().splitlines()]
    assert [e["event"] for e in events] == ["step", "start", "end", "outcome"]
    assert (events[-1]["status"], events[-1]["code"]) == ("stopped", code)


def test_a_finished_step_does_not_import_torch(resolved: tuple[Recipe, Profile], tmp_path: Path) -> None:
    step("prepare_data", resolved, tmp_path)
    script = (
        "from tests.pipeline.test_step import *; import sys;"
        f"recipe = Recipe.model_validate_json({resolved[0].model_dump_json()!r});"
        f"profile = Profile.model_validate_json({resolved[1].model_dump_json()!r});"
        f"step('prepare_data', (recipe, profile), Path({str(tmp_path)!r}));"
        "print([m for m in ('torch', 'transformers', 'mlflow', 'kfp', 'megatron', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_skipped_step_imports_next_to_nothing(tmp_path: Path) -> None:
    script = (
        "from steerlm.pipeline.step import run_step; import sys; from types import SimpleNamespace as N;"
        f"run_step('train_sft', '{{}}', '{{}}', {{}}, N(path={str(tmp_path / 'out')!r}, metadata={{}}));"
        "print([m for m in ('pydantic', 'yaml', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_step_has_a_stage() -> None:
    from importlib import import_module

    for label, one in STEPS.items():
        module = import_module(f"steerlm.stages.{one.stage}")
        assert module.STAGE.name == one.stage
        for name in shipped("recipes"):
            recipe = load_recipe(name).recipe
            applies = skip_reason(label, json.loads(recipe.model_dump_json()), None) is None
            assert (module.config(recipe, one.role) is not None) == applies, (label, name)
