# SPDX-License-Identifier: Apache-2.0
"""Folders that plain transformers saved again keep their dials, or are refused by name."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from steerlm.attributes import AttributeSchema
from steerlm.errors import ModelError
from steerlm.inference.scorer import TransformersScorer
from steerlm.models.fetch import fetch_model
from steerlm.models.folder import ModelInfo, read_info
from steerlm.serving.config import ServeSettings
from steerlm.serving.run import build_app
from tests.models.conftest import OWN, Make

PART = AttributeSchema(names=("warmth", "wit", "length"), low=1, high=10, defaults={"wit": 2}).restricted(
    ["warmth", "wit"]
)
SCHEMAS = pytest.mark.parametrize("schema", [OWN, PART], ids=["own", "partly trained"])


def save_again(folder: Path, target: Path, *, tokenizer: bool = True) -> Path:
    """Cast the model to bf16, as anyone does who has only transformers."""
    reward = json.loads((folder / "config.json").read_text())["architectures"][0].endswith("Classification")
    auto: Any = AutoModelForSequenceClassification if reward else AutoModelForCausalLM
    auto.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(target)
    if tokenizer:
        AutoTokenizer.from_pretrained(folder).save_pretrained(target)
    assert not (target / "steerlm.json").exists()
    return target


@SCHEMAS
@pytest.mark.parametrize("kind", ["reward", "policy"])
def test_attributes_range_defaults_and_window_survive(
    make_folder: Make, tmp_path: Path, schema: AttributeSchema, kind: Any
) -> None:
    info = ModelInfo(kind, attributes=schema, window=64, base="org/base", license="mit", metrics={"loss": 1.0})
    again = save_again(make_folder(info), tmp_path / "again")
    assert read_info(again) == replace(info, metrics={})
    twice = save_again(again, tmp_path / "twice")
    assert read_info(twice) == replace(info, metrics={})
    fetch_model(str(twice), tmp_path / "fetched")
    assert read_info(tmp_path / "fetched") == replace(info, metrics={})


def test_a_reward_model_scores_and_a_policy_is_served_with_its_dials(make_folder: Make, tmp_path: Path) -> None:
    reward = save_again(make_folder(ModelInfo("reward", attributes=OWN), "reward"), tmp_path / "r")
    assert TransformersScorer(reward).schema == OWN
    policy = save_again(make_folder(ModelInfo("policy", attributes=OWN), "policy"), tmp_path / "p")
    assert build_app(policy, "generate", ServeSettings()).state.service.schema == OWN
    baseline = save_again(make_folder(ModelInfo("policy"), "baseline"), tmp_path / "b")
    assert read_info(baseline) == ModelInfo("policy")


def test_a_base_model_stays_one(make_folder: Make, tmp_path: Path) -> None:
    assert read_info(save_again(make_folder(ModelInfo("base")), tmp_path / "again")) == ModelInfo("base")


def edit(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({k: v for k, v in (json.loads(path.read_text()) | values).items() if v is not None}))


def without_note(folder: Path) -> None:
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text().partition("\n")[2])


def foreign_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")


@pytest.mark.parametrize(
    ("kind", "spoil", "message"),
    [
        ("policy", foreign_template, "does not tell the attributes of this policy model"),
        ("policy", without_note, "does not tell the attributes of this policy model"),
        ("reward", foreign_template, "does not tell the attributes of this reward model"),
        ("reward", lambda f: (f / "chat_template.jinja").unlink(), "does not tell the attributes of this reward"),
        ("reward", lambda f: edit(f, id2label={"0": "wit", "1": "warmth", "2": "x"}), "id2label .* other outputs"),
        ("reward", lambda f: edit(f, architectures=["LlamaForCausalLM"]), "is of a reward model, its config.json is"),
        ("policy", lambda f: edit(f, steerlm_kind="reward"), "is of a policy model, its config.json is not"),
    ],
)
def test_what_does_not_tell_its_attributes_is_refused(
    make_folder: Make, tmp_path: Path, kind: Any, spoil: Any, message: str
) -> None:
    folder = save_again(make_folder(ModelInfo(kind, attributes=OWN)), tmp_path / "again")
    spoil(folder)
    with pytest.raises(ModelError, match=message) as caught:
        read_info(folder)
    assert str(caught.value).startswith(f"{folder}: has no steerlm.json, and ")
    with pytest.raises(ModelError, match=message):
        build_app(folder, "reward" if kind == "reward" else "generate", ServeSettings())


def test_a_reward_model_made_elsewhere_is_not_taken_for_a_base(make_folder: Make, tmp_path: Path) -> None:
    folder = save_again(make_folder(ModelInfo("reward", attributes=OWN)), tmp_path / "again", tokenizer=False)
    edit(folder, steerlm_kind=None, id2label={"0": "LABEL_0"})
    with pytest.raises(ModelError, match="does not tell the attributes of this reward model"):
        read_info(folder)


def test_the_template_of_older_tokenizer_configs_is_read(make_folder: Make, tmp_path: Path) -> None:
    folder = save_again(make_folder(ModelInfo("policy", attributes=OWN)), tmp_path / "again")
    template, path = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template.read_text()}))
    template.unlink()
    assert read_info(folder) == ModelInfo("policy", attributes=OWN)
