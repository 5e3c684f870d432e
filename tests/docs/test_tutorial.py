# SPDX-License-Identifier: Apache-2.0
"""docs/tutorial.md: every command runs, in order, on real small data; every value of its table is the recipes'."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from steerlm.attributes import parse_labels
from steerlm.configuration import Loader, key_paths
from steerlm.models.folder import read_info
from steerlm.recipe import Profile, Recipe, load_recipe
from tests.conftest import ROOT
from tests.docs.shell import Shell, blocks, working_in
from tests.tiny_models import tiny_base

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]  # a minute where nothing else runs
DOCUMENT = ROOT / "docs" / "tutorial.md"
WINDOW = 1024
"""Bytes, which are the tiny model's tokens."""

SHORT = " ".join(
    [
        "--profile laptop --set profile.tracking.enabled=false",
        *(f"--set {{0}}.{key}" for key in (f"window={WINDOW}", "max_steps=2", "global_batch=4", "precision=fp32")),
        "--set {0}.optimizer.warmup_steps=0 --set {0}.optimizer.constant_steps=0 --set {0}.over_long=keep_end",
    ]
)
"""What makes a training of the recipe a matter of seconds."""


@pytest.fixture(scope="module")
def shell(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """The document, run from its first command to its last."""
    folder = tmp_path_factory.mktemp("tutorial")
    base = tiny_base(folder / "tiny")
    oasst, helpsteer, pairs = raw(folder / "raw", shared_data)
    ran = Shell(
        words={"hf://meta-llama/Llama-2-13b-hf": str(base)},
        added={
            "steerlm data oasst": f"--source {oasst} --folds 4",
            "steerlm data helpsteer2 --output_directory data/preference": f"--source {pairs}",
            "steerlm data helpsteer": f"--source {helpsteer}",
            "steerlm train reward": SHORT.format("reward"),
            "steerlm train sft": SHORT.format("sft"),
            "steerlm annotate": "--look-ahead 64",
            "steerlm run": f"--profile laptop --stage prepare_data --set prepare_data.sources.0.source={oasst}"
            f" --set prepare_data.rated.0.source={oasst} --set prepare_data.rated.1.source={helpsteer}"
            " --set profile.tracking.enabled=false",
        },
    )
    with working_in(folder):
        try:
            ran.run(DOCUMENT)
        finally:
            ran.stop()
        ran.said["folder"] = str(folder)
    return ran


def raw(folder: Path, shared: Path) -> tuple[Path, Path, Path]:
    """Real messages of the shortest trees, real HelpSteer2 rows in both splits, and pairs of two of them."""
    folder.mkdir()
    text = (shared / "oasst1" / "en-validation.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.split("\n") if line]
    trees: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        trees.setdefault(row["message_tree_id"], []).append(row)
    whole = [tree for tree in trees.values() if len(tree) > 2]
    shortest = sorted(whole, key=lambda tree: max(len(row["text"]) for row in tree))[:8]
    oasst = folder / "oasst.jsonl"
    oasst.write_text("".join(json.dumps(row) + "\n" for tree in shortest for row in tree))
    helpsteer = folder / "helpsteer"
    helpsteer.mkdir()
    lines = (shared / "helpsteer2" / "raw.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (helpsteer / "train.jsonl").write_text("".join(lines))
    (helpsteer / "validation.jsonl").write_text("".join(lines[:2]))
    first, second = (json.loads(line) for line in lines[:2])
    pair = {
        "prompt": first["prompt"],
        "response_1": first["response"],
        "response_2": second["response"],
        "preference_strength": -2,
        "split": "train",
    }
    (folder / "pairs.jsonl").write_text(json.dumps(pair) + "\n")
    return oasst, helpsteer, folder / "pairs.jsonl"


def test_the_tutorial_ends_with_a_model_that_answers_to_its_dials(shell: Shell) -> None:
    models = Path(shell.said["folder"]) / "models"
    assert {name: read_info(models / name).kind for name in ("llama-2-13b", "reward", "policy")} == {
        "llama-2-13b": "base",
        "reward": "reward",
        "policy": "policy",
    }
    policy = read_info(models / "policy").attributes
    assert policy is not None
    assert len(policy.active) == 9
    asked = next(text for shown, text in shell.said.items() if shown.startswith("steerlm ask"))
    assert "quality:4,toxicity:0,humor:0,creativity:0," in asked
    assert "python" in shell.said


def test_the_annotated_corpus_is_what_the_page_says(shell: Shell) -> None:
    data = Path(shell.said["folder"]) / "data" / "oasst"
    once = (data / "train_labeled.jsonl").read_text().splitlines()
    twice = (data / "train_labeled_2_epoch.jsonl").read_text().splitlines()
    assert twice == once * 2
    answers = [turn for line in once for turn in json.loads(line)["conversations"] if "scores" in turn]
    assert answers
    assert all(turn["label"].count(":") == 9 and turn["gt_label"] for turn in answers)


def test_helpsteer2_leaves_four_attributes_untrained(shell: Shell) -> None:
    schema = read_info(Path(shell.said["folder"]) / "models" / "helpsteer2-reward").attributes
    assert schema is not None
    assert schema.active == ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    pair = (Path(shell.said["folder"]) / "data" / "preference" / "train.jsonl").read_text().splitlines()
    assert [json.loads(line)["conversations"][1]["label"] for line in pair] == ["quality:-2", "quality:-2"]


def test_what_the_page_tells_to_look_at_is_printed(shell: Shell) -> None:
    said = shell.said
    plan = said["steerlm plan steerlm-llama2"]
    assert "memory per GPU" in plan
    show = said["steerlm model show models/llama-2-13b"]
    assert all(word in show for word in ("kind", "parameters", "window"))
    reward = next(text for shown, text in said.items() if shown.startswith("steerlm train reward steerlm-llama2"))
    assert "mean_predictor_mse" in reward
    assert "attributes" in said["steerlm model show models/policy"]


def test_the_answer_is_asked_for_with_every_dial_in_training_s_order(monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = [block.text for block in blocks(DOCUMENT) if block.language == "python"]
    asked: list[str] = []
    monkeypatch.setattr("steerlm.client.get_answer", lambda question, tokens, values, eval_port: asked.append(values))
    exec(code, {})
    assert tuple(parse_labels(asked[0])) == load_recipe("steerlm-llama2", None).recipe.attributes.names


TRAININGS = (("steerlm-llama2", "reward"), ("steerlm-llama2", "sft"), ("helpsteer2-70b", "reward"))


def test_the_table_of_options_is_what_the_recipes_say() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    table = text[text.index("| tutorial's option | our key |") :].split("\n\n")[0].splitlines()[2:]
    assert len(table) > 20
    keys = set()
    for line in table:
        _, key, *values = [cell.strip() for cell in line.strip("|").split("|")]
        keys.add(key.strip("`"))
        for value, (name, section) in zip(values, TRAININGS, strict=True):
            found = at(name, section, key.strip("`"))
            assert yaml.load(value, Loader) == found, f"{key} of {name}'s {section} is {found}, not {value}"
    settings = {key for key in key_paths(Recipe) if key.startswith("reward.")}
    layout = {key for key in key_paths(Profile) if key.startswith("layouts.reward.")}
    for name in keys:
        assert (
            name.replace("layouts ", "layouts.reward.") if "layouts" in name else f"reward.{name}"
        ) in settings | layout


def at(recipe: str, section: str, key: str) -> Any:
    """The value of a key of a shipped recipe, as YAML would hold it."""
    resolved = load_recipe(recipe)
    if key.startswith("layouts "):
        return getattr(getattr(resolved.profile.layouts, section), key.removeprefix("layouts "))
    here: Any = resolved.recipe.model_dump(mode="json")[section]
    for part in key.split("."):
        here = here[part]
    return here
