# SPDX-License-Identifier: Apache-2.0
"""Every entry of the table of families computes what transformers computes: outputs, gradients, steps, reward heads.

Logits and round trips are in `test_hf_io.py`, layouts in `test_layouts.py`, checkpoints in `test_shares.py`.
"""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from steerlm.megatron import parallel
from steerlm.models.families import FAMILIES
from steerlm.models.shape import ModelShape
from steerlm.training.footprint import local_parameters
from steerlm.training.layout import LayoutSettings
from tests.megatron.forked import one, ranks
from tests.megatron.material import (
    FAMILY_SHAPES,
    GQA,
    OUTPUTS,
    engine,
    transformers_folder,
    weights,
)
from tests.megatron.parity import check_gradients, check_steps

MODELS = pytest.mark.parametrize(
    ("name", "outputs"), [*((name, None) for name in FAMILY_SHAPES), *((name, OUTPUTS) for name in FAMILIES)]
)


def _steps(base: Path, folder: Path, outputs: int | None) -> None:
    check_steps(engine(folder=base, outputs=outputs), folder, outputs)


@MODELS
def test_steps_equal_the_oracles(name: str, outputs: int | None, tmp_path: Path) -> None:
    base = transformers_folder(tmp_path / "base", FAMILY_SHAPES[name])
    one(_steps, base, tmp_path, outputs)
    start, end = weights(base), weights(tmp_path / "end")
    learned = [key for key in start.keys() & end.keys() if key.endswith(".bias")]
    assert len(learned) == 3 * GQA.num_hidden_layers * FAMILY_SHAPES[name].family.qkv_bias
    assert all(not torch.equal(start[key], end[key]) for key in learned)


def _gradients(base: Path, folder: Path, outputs: int | None) -> None:
    check_gradients(engine(folder=base, outputs=outputs), folder, outputs)


@MODELS
def test_gradients_equal_the_oracles(name: str, outputs: int | None, tmp_path: Path) -> None:
    base = transformers_folder(tmp_path / "base", FAMILY_SHAPES[name])
    one(_gradients, base, tmp_path / "oracle", outputs)


def _drawn(folder: Path, shape: ModelShape) -> None:
    of = engine(shape)
    of.write_hf(folder)


@pytest.mark.parametrize("name", FAMILIES)
def test_drawn_biases_are_zero_and_norms_one(name: str, tmp_path: Path) -> None:
    one(_drawn, tmp_path, FAMILY_SHAPES[name])
    vectors = {key: value for key, value in weights(tmp_path).items() if value.dim() == 1}
    assert {key for key in vectors if key.endswith(".bias")} == {
        f"model.layers.{layer}.self_attn.{part}_proj.bias"
        for layer in range(GQA.num_hidden_layers if FAMILIES[name].qkv_bias else 0)
        for part in "qkv"
    }
    assert all((value == (0 if key.endswith(".bias") else 1)).all() for key, value in vectors.items())
    (tmp_path / "config.json").write_text(json.dumps(FAMILY_SHAPES[name].to_config()))
    model, loading = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert type(model).__name__ == FAMILIES[name].architecture(reward=False) and not any(loading.values())


def _counted(shape: ModelShape, outputs: int | None, layout: LayoutSettings) -> tuple[int, int]:
    of = engine(shape, outputs, layout=layout.model_dump())
    return parallel.model_parallel_rank().stage, sum(parameter.numel() for parameter in of.model.parameters())


@MODELS
def test_the_planned_number_of_parameters_is_the_models(name: str, outputs: int | None) -> None:
    for sizes in ({"tensor": 2}, {"pipeline": 2}):
        layout = LayoutSettings(devices=2, **sizes)
        for stage, count in ranks(2, _counted, FAMILY_SHAPES[name], outputs, layout):
            assert count == local_parameters(FAMILY_SHAPES[name], layout, outputs, stage)
