# SPDX-License-Identifier: Apache-2.0
"""A recipe's text arrives at a step unchanged, through `kfp.local` and through the compiled pipeline."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerlm.pipeline.local import run_pipeline
from steerlm.pipeline.parameters import engine_parameters, escape_json
from steerlm.recipe import Recipe, ResolvedRecipe
from tests.conftest import ROOT
from tests.pipeline.test_local import data, resolve

__all__ = ["data"]

TEXT = (
    "{{$}} {{$.inputs}} {{$.inputs.parameters['profile']}} {{workflow.name}} {{=1}} $(HOME) $$(HOME) {\"Concat\": 1}"
    " \U0001f600 \\ \\ud83d {{{{ }}}} \u2028 %s"
)


def resolved(folder: Path) -> ResolvedRecipe:
    plain = resolve(folder)
    recipe = plain.recipe.model_copy(update={"name": "a/b {{$}}", "description": TEXT})
    return replace(plain, recipe=recipe)


@given(
    st.recursive(
        st.text('{}$(\\"a\ud7ff\U0001f600'), lambda inner: st.lists(inner) | st.dictionaries(st.text("{$"), inner)
    )
)
def test_escaped_json_means_the_same(value: Any) -> None:
    escaped = escape_json(json.dumps(value, separators=(",", ":")))
    assert json.loads(escaped) == value
    assert "$" not in escaped
    assert "{{" not in escaped


@pytest.fixture
def spy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let every step write the recipe it was given to `seen.json`."""
    seen = tmp_path / "store" / "seen.json"
    (tmp_path / "sitecustomize.py").write_text(
        "import steerlm.pipeline.step as step, pathlib\n"
        "run = step.run_step\n"
        "def spied(label, recipe, *others):\n"
        f"    pathlib.Path({str(seen)!r}).write_text(recipe)\n"
        "    run(label, recipe, *others)\n"
        "step.run_step = spied\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    return seen


def test_through_kfp_local(data: Path, spy: Path) -> None:
    run = run_pipeline(resolved(data), lambda event: None)
    assert Recipe.model_validate_json(spy.read_text()).description == TEXT
    assert run.folder.parent == run.store.root / "runs"


def test_through_the_compiled_pipeline(data: Path, spy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kfp import components, local

    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path / "engine"))
    pipeline = components.load_component_from_file(str(ROOT / "pipelines" / "compiled" / "steerlm.yaml"))
    spy.parent.mkdir()
    pipeline(**engine_parameters(resolved(data)))
    assert Recipe.model_validate_json(spy.read_text()).description == TEXT
