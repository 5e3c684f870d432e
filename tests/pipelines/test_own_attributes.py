# SPDX-License-Identifier: Apache-2.0
"""The whole pipeline with three custom attributes on 0..9: everything follows from the schema in the recipe."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from fastapi.testclient import TestClient
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from steerlm.attributes import AttributeSchema, parse_labels
from steerlm.models.folder import read_info
from steerlm.pipeline.local import PipelineRun, run_pipeline
from steerlm.prompt import USER, render_prompt
from steerlm.recipe import load_recipe
from steerlm.records import Conversation, Turn, read_records
from steerlm.serving.config import ServeSettings
from steerlm.serving.run import build_app
from tests.tiny_models import tiny_base

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]  # three trainings and two more runs
SCHEMA = AttributeSchema(names=("warm", "brief", "bold"), low=0, high=9, defaults={"brief": 2})
WORDS = ("cold", "long", "shy"), ("kind", "short", "brave")


def talk(rng: random.Random, labeled: bool) -> str:
    values = {name: rng.randrange(10) for name in SCHEMA.names}
    words = [WORDS[values[n] > 4][i] for i, n in enumerate(SCHEMA.names)]
    answer = {"value": " ".join(words), "from": "Assistant"} | ({"label": SCHEMA.format(values)} if labeled else {})
    turns = [{"value": f"Say {rng.randrange(99)}.", "from": USER, "label": None}, answer]
    return json.dumps({"conversations": turns, "system": "Be.", "mask": USER, "type": "VALUE_TO_TEXT"})


def write_recipe(folder: Path) -> Path:
    """Write a recipe, its data and its base model to `folder`; a run takes about 60 s."""
    rng = random.Random(1)
    (folder / "data").mkdir()
    for name, count in (("train", 64), ("val", 16)):
        lines = [talk(rng, labeled=i % 2 == 0) for i in range(count)]
        (folder / "data" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    base = tiny_base(folder / "base", num_key_value_heads=2, max_position_embeddings=512)
    training = {"max_steps": 4, "global_batch": 16, "window": 384, "precision": "fp32"}
    recipe = {
        "name": "own",
        "attributes": {"names": list(SCHEMA.names), "low": 0, "high": 9, "defaults": {"brief": 2}},
        "prepare_data": {"sources": [{"kind": "conversations", "source": str(folder / "data")}]},
        "base": {"fetch": {"uri": str(base)}},
        "reward": training,
        "annotate": {},
        "sft": training,
        "evaluate": {"questions": 8, "curve_questions": 1, "max_tokens": 4},
        "report": {},
    }
    (folder / "own.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "own.yaml"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PipelineRun]:
    folder = tmp_path_factory.mktemp("own")
    resolved = load_recipe(write_recipe(folder), None, [f"profile.store={folder / 'store'}"])
    yield run_pipeline(resolved, lambda event: None)


def path(run: PipelineRun, label: str) -> Path:
    return Path(run.outcome(label)["path"])


def test_the_reward_model_has_three_named_outputs(run: PipelineRun) -> None:
    folder = path(run, "train_reward")
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert list(model.config.id2label.values()) == list(SCHEMA.names)
    assert model.score.weight.shape == (3, 32)
    # A reward model does not depend on the attributes' defaults.
    assert read_info(folder).attributes == SCHEMA.model_copy(update={"defaults": {}, "trained": SCHEMA.names})


def test_every_answer_is_labeled_with_the_three_attributes_in_range(run: PipelineRun) -> None:
    talks = [talk for _, talk in read_records(path(run, "annotate") / "train.jsonl", Conversation)]
    assert len(talks) == 64
    for one in talks:
        labels = parse_labels(one.conversations[1].label or "")
        assert list(labels) == list(SCHEMA.names)
        assert all(value in range(10) for value in labels.values())


def test_the_policy_renders_the_attributes_and_the_server_validates_them(run: PipelineRun) -> None:
    folder = path(run, "train_sft")
    AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": "Say 1."}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, attributes={"bold": 9})
    assert text == render_prompt([Turn(value="Say 1.", speaker=USER)], "warm:9,brief:2,bold:9")
    with TestClient(build_app(folder, "generate", ServeSettings())) as client:
        body = {"model": "policy", "messages": messages, "max_tokens": 2}
        good = client.post("/v1/chat/completions", json=body | {"attributes": {"bold": 9}})
        assert good.status_code == 200, good.text
        assert good.json()["steerlm"]["attributes"] == {"warm": 9, "brief": 2, "bold": 9}
        for wrong, named in (({"bold": 10}, "bold"), ({"humor": 1}, "humor")):
            refused = client.post("/v1/chat/completions", json=body | {"attributes": wrong})
            assert refused.status_code == 400
            assert named in refused.json()["error"]["message"]


def test_the_report_shows_the_three_attributes(run: PipelineRun) -> None:
    result = json.loads((path(run, "evaluate") / "evaluation.json").read_text())
    assert result["steering"]["attributes"] == list(SCHEMA.names)
    assert result["steering"]["range"] == [0, 9]
    page = (path(run, "report") / "report.html").read_text()
    assert all(name in page for name in SCHEMA.names)


def test_a_second_run_is_all_hits(run: PipelineRun) -> None:
    folder = run.store.root.parent
    resolved = load_recipe(folder / "own.yaml", None, [f"profile.store={run.store.uri}"])
    again = run_pipeline(resolved, lambda event: None)
    assert {o["status"] for o in again.outcomes} == {"hit", "skipped"}


def test_a_changed_setting_runs_what_depends_on_it_and_nothing_else(run: PipelineRun) -> None:
    folder = run.store.root.parent
    changes = [f"profile.store={run.store.uri}", "sft.optimizer.lr=1e-4", "sft.optimizer.min_lr=1e-5"]
    again = run_pipeline(load_recipe(folder / "own.yaml", None, changes), lambda event: None)
    ran = {o["label"] for o in again.outcomes if o["status"] == "run"}
    assert ran == {"train_sft", "evaluate", "report"}
