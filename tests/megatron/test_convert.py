# SPDX-License-Identifier: Apache-2.0
"""`steerlm model import|export`: bit for bit through a Megatron checkpoint, in any layout, the other files with it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, LlamaForCausalLM

from steerlm.errors import ModelError, TrainingError
from steerlm.megatron.convert import export_hf, import_hf
from steerlm.models.families import FAMILIES
from steerlm.models.shape import ModelShape
from steerlm.training.layout import LayoutSettings
from tests.megatron.forked import one, ranks
from tests.megatron.material import (
    FAMILY_SHAPES,
    GQA,
    OUTPUTS,
    curve,
    engine,
    same,
    transformers_folder,
    weights,
    write_config,
)


def _import(folder: Path, out: Path, layout: dict[str, Any]) -> None:
    import_hf(folder, out, LayoutSettings(**layout))


def _export(folder: Path, out: Path, layout: dict[str, Any]) -> None:
    export_hf(folder, out, LayoutSettings(**layout))


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        *((GQA, dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16)),
        *((shape, torch.bfloat16) for shape in FAMILY_SHAPES.values()),
    ],
)
def test_there_and_back(shape: ModelShape, dtype: torch.dtype, tmp_path: Path) -> None:
    source = transformers_folder(tmp_path / "source", shape, dtype)
    (source / "tokenizer.json").write_text("{}")
    ranks(2, _import, source, tmp_path / "checkpoint", {"devices": 2, "tensor": 2})
    ranks(2, _export, tmp_path / "checkpoint", tmp_path / "again", {"devices": 2, "pipeline": 2})
    same(tmp_path / "again", source)
    for path in source.iterdir():
        if path.suffix != ".safetensors":
            assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_stories_260k(shared_data: Path, tmp_path: Path) -> None:
    one(_import, shared_data / "stories260K", tmp_path / "checkpoint", {})
    one(_export, tmp_path / "checkpoint", tmp_path / "again", {})
    same(tmp_path / "again", shared_data / "stories260K")
    assert ModelShape.from_folder(tmp_path / "again") == ModelShape.from_folder(shared_data / "stories260K")


def _train(folder: Path, shape: ModelShape) -> None:
    of = engine(shape, OUTPUTS)
    curve(of, OUTPUTS, range(1))
    of.save(folder / "checkpoint", {})
    of.finish_save()
    of.write_hf(folder / "model")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_training_jobs_checkpoint_is_exported_with_a_config(name: str, tmp_path: Path) -> None:
    one(_train, tmp_path, FAMILY_SHAPES[name])
    one(_export, tmp_path / "checkpoint", tmp_path / "again", {})
    same(tmp_path / "again", tmp_path / "model")
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    architecture = f"{FAMILIES[name].name}ForSequenceClassification"
    assert config["architectures"] == [architecture] and len(config["id2label"]) == OUTPUTS
    assert ModelShape.from_folder(tmp_path / "again") == FAMILY_SHAPES[name]
    model, loading = AutoModelForSequenceClassification.from_pretrained(tmp_path / "again", output_loading_info=True)
    assert type(model).__name__ == architecture and not any(loading.values())


def _refused(folder: Path) -> None:
    with pytest.raises(ModelError, match="one dtype"):
        import_hf(folder, folder / "checkpoint")
    with pytest.raises(TrainingError, match="COMPLETE is missing"):
        export_hf(folder / "checkpoint", folder / "again")


def test_mixed_dtypes_are_refused(tmp_path: Path) -> None:
    write_config(tmp_path, GQA, None)
    model = LlamaForCausalLM.from_pretrained(transformers_folder(tmp_path, GQA))
    model.model.embed_tokens.to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    assert len({tensor.dtype for tensor in weights(tmp_path).values()}) == 2
    one(_refused, tmp_path)
