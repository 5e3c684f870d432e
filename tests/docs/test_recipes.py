# SPDX-License-Identifier: Apache-2.0
"""docs/recipes.md names every key with its value and default, and its examples load and plan."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from steerlm.annotation.config import AnnotateSettings
from steerlm.annotation.parallel import read_plan
from steerlm.annotation.spec import AnnotateSpec
from steerlm.artifact import Store
from steerlm.attributes import AttributeSchema
from steerlm.cli.main import call
from steerlm.datasets.sources.registry import SOURCES
from steerlm.evaluation.config import EvaluationSettings
from steerlm.jobs.config import JobSettings
from steerlm.jobs.entry import read_spec as read_entry_spec
from steerlm.jobs.kubernetes.config import (
    ClusterSettings,
    ImageSettings,
    LauncherSettings,
    PlacementSettings,
    ResourceSettings,
    WorkspaceSettings,
)
from steerlm.models.public import SHAPES
from steerlm.models.shape import ModelShape, RopeScaling
from steerlm.models.tensors import TensorShapes, tensor_shapes
from steerlm.pipeline.local import PipelineRun
from steerlm.recipe import (
    BaseSection,
    FetchSection,
    Goals,
    Layouts,
    PrepareSection,
    Profile,
    Recipe,
    ReportSection,
    ResolvedRecipe,
    SFTSection,
    ToyworldSource,
    TrackingSettings,
    load_recipe,
    shipped,
)
from steerlm.records import RegressionSample
from steerlm.toyworld.config import RaterSettings
from steerlm.training.config import OptimizerSettings, RewardSettings, TextSettings, TrainSettings
from steerlm.training.hardware import GPUS, GpuConstants
from steerlm.training.layout import LayoutSettings
from steerlm.trainjob.spec import TrainSpec
from tests.byte_tokenizer import byte_tokenizer
from tests.conftest import ROOT
from tests.docs.shell import Shell, blocks
from tests.docs.tables import documented, models_below, rows
from tests.inference.conftest import conversation

DOCUMENT = ROOT / "docs" / "recipes.md"
TABLES = {
    "Keys of a recipe": rows(Recipe),
    "`attributes`": rows(AttributeSchema),
    "`prepare_data`": rows(PrepareSection),
    **{f"`prepare_data.sources`, kind `{kind}`": rows(source.settings) for kind, source in SOURCES.items()},
    "`prepare_data.sources`, kind `toyworld`": rows(ToyworldSource),
    "`raters` of kind `toyworld`": rows(RaterSettings),
    "`base`": rows(BaseSection),
    "`base.fetch` and `base.reward`": rows(FetchSection),
    "Every training: `base.train`, `reward`, `sft`, `baseline`": rows(TrainSettings),
    "`optimizer` of every training": rows(OptimizerSettings),
    "`base.train` besides": rows(TextSettings, TrainSettings),
    "`base.train.shape`": rows(ModelShape),
    "`base.train.shape.rope_scaling`": rows(RopeScaling),
    "`reward` besides": rows(RewardSettings, TrainSettings),
    "`annotate`": rows(AnnotateSettings),
    "`sft` and `baseline` besides": rows(SFTSection, TrainSettings),
    "`evaluate`": rows(EvaluationSettings),
    "`report`": rows(ReportSection),
    "`report.goals`": rows(Goals),
    "Keys of a profile": rows(Profile),
    "`gpu_constants`": rows(GpuConstants),
    "`layouts`": rows(Layouts),
    "`layouts.base`, `layouts.reward`, `layouts.sft`": rows(LayoutSettings),
    "`jobs`": rows(JobSettings),
    "`cluster`": rows(ClusterSettings),
    "`cluster.workspace`": rows(WorkspaceSettings),
    "`cluster.images`": rows(ImageSettings),
    "`cluster.resources`": rows(ResourceSettings),
    "`cluster.placement`": rows(PlacementSettings),
    "`cluster.launcher`": rows(LauncherSettings),
    "`tracking`": rows(TrackingSettings),
}


def test_every_key_stands_there_with_its_value_and_default() -> None:
    found = documented(DOCUMENT.read_text(encoding="utf-8"))
    assert list(found) == list(TABLES)
    for heading, expected in TABLES.items():
        assert [tuple(cells[:2]) for cells in found[heading]] == expected, f"the table of {heading}"
        assert all(len(cells) == 3 and cells[2] for cells in found[heading]), f"a key of {heading} has no meaning"


def test_no_model_of_recipes_and_profiles_is_forgotten() -> None:
    models = {*models_below(Recipe), *models_below(Profile)}
    assert len(models) == len(TABLES) - 1, "each model has a table, and the trainings share one"
    keys = {key for table in TABLES.values() for key, _ in table}
    assert keys == {f"`{key}`" for model in models for key in model.model_fields}


def test_the_shipped_names_are_told() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    for name in (*shipped("recipes"), *shipped("profiles"), *GPUS):
        assert f"`{name}`" in text


def test_the_examples_load_and_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks(DOCUMENT):
        if block.name.endswith(".yaml"):
            Path(block.name).write_text(block.text)
    resolved = load_recipe("own.yaml", "cluster.yaml")
    assert resolved.recipe.attributes.default("verbosity") == 2
    assert resolved.profile.layouts.sft.data_parallel == 8


def test_the_commands_do_what_the_document_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans are made; of `steerlm run` only that options and files are taken (pipelines run in tests/pipelines)."""
    monkeypatch.chdir(tmp_path)
    began: list[ResolvedRecipe] = []

    def begin(resolved: ResolvedRecipe, show: Any) -> PipelineRun:
        began.append(resolved)
        return PipelineRun(tmp_path, Store(str(tmp_path)), [], 0.0)

    monkeypatch.setattr("steerlm.pipeline.local.run_pipeline", begin)
    byte_tokenizer().save_pretrained(Path("models/llama-3-70b"))
    sample = RegressionSample(text="What is ice? Frozen water. <extra_id_2>", label=[1.0] * 9)
    Path("data").mkdir()
    Path("data/train_reg.jsonl").write_text(f"{sample.to_json()}\n" * 4)
    folder_of("meta-llama/Llama-2-70b-hf", Path("models/llama-2-70b"))
    reward_of("meta-llama/Llama-2-70b-hf", Path("models/reward"))
    Path("data/train.jsonl").write_text(f"{conversation(1).to_json()}\n")
    for split in ("train", "val"):
        Path(f"data/{split}_labeled.jsonl").write_text(f"{conversation(3).to_json()}\n")
    shell = Shell(added={"steerlm plan helpsteer2-70b --data": "--set reward.global_batch=4"})
    shell.run(DOCUMENT)
    assert [(one.recipe.name, one.profile.name) for one in began] == [
        ("demo", "two-processes"),
        ("own", "one-gpu"),
        ("own", "cluster"),
        ("own", "one-gpu"),
    ]
    assert began[-1].options.until == "train_reward"
    assert not any(one.options.until for one in began[:-1])
    assert sum("replica" in text for text in shell.said.values()) == 8
    spec = TrainSpec.read(Path("sft.json"))
    assert (spec.objective, spec.layout.processes, spec.work) == ("sft", 256, tmp_path / "models/policy.work/work")
    made = {path.relative_to("models/policy.work").parts[:2] for path in Path("models/policy.work").rglob("*.bin")}
    assert made == {("work", "tokens")} and {index[:16] for index in spec.index.model_dump().values()} == {
        path.name for path in Path("models/policy.work/work/tokens").iterdir() if path.is_dir()
    }
    annotation = read_entry_spec(Path("annotate.json"), AnnotateSpec)
    assert (annotation.layout.data_parallel, len(read_plan(annotation.files[0].folder).blocks)) == (4, 1)
    assert "% of the computed tokens" in next(text for shown, text in shell.said.items() if "--data" in shown)


def test_the_specs_keys_are_told() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    table = text[text.index("| key of the spec |") :].split("\n\n")[0]
    first = [row.split("|")[1] for row in table.splitlines()[2:]]
    assert re.findall(r"`(\w+)`", " ".join(first)) == list(TrainSpec.model_fields)


def folder_of(name: str, folder: Path, outputs: int | None = None) -> None:
    """A model folder as far as can be seen without reading weights: a public model's sizes and header, a tokenizer."""
    byte_tokenizer().save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(SHAPES[name].to_config()))
    write_headers(folder, tensor_shapes(SHAPES[name], outputs))


def write_headers(folder: Path, shapes: TensorShapes, shards: int = 32) -> None:
    """Weights in bf16, in shards of which only the headers are written; the values are holes in the files."""
    places = {name: f"model-{number % shards:05}.safetensors" for number, name in enumerate(shapes)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    for place in set(places.values()):
        header, end = {}, 0
        for name in (name for name in shapes if places[name] == place):
            start, end = end, end + 2 * math.prod(shapes[name])
            header[name] = {"dtype": "BF16", "shape": shapes[name], "data_offsets": [start, end]}
        text = json.dumps(header).encode()
        with open(folder / place, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + end)


def reward_of(name: str, folder: Path) -> None:
    """A reward model's folder with a public model's sizes."""
    schema = AttributeSchema()
    folder_of(name, folder, len(schema.names))
    attributes = schema.model_dump(mode="json")
    (folder / "steerlm.json").write_text(json.dumps({"format": 1, "kind": "reward", "attributes": attributes}))


def test_an_unknown_key_is_told_as_the_document_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe, *_ = [block.text for block in blocks(DOCUMENT) if block.name == "own.yaml"]
    Path("own.yaml").write_text(recipe.replace("epochs: 2\n", "epoch: 2\n", 1))
    assert call(["plan", "own.yaml"]) == 2
    told = capsys.readouterr().err.strip()
    assert told in [block.text.strip() for block in blocks(DOCUMENT) if block.language == "text"]
