# SPDX-License-Identifier: Apache-2.0
"""The footprint against counted parameters, known models and packed rows; impossible settings are refused."""

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from steerlm.errors import ConfigError
from steerlm.models.public import SHAPES, public_shape
from steerlm.models.shape import ModelShape
from steerlm.training.config import RewardSettings, SFTSettings
from steerlm.training.footprint import (
    activation_bytes,
    flops_per_token,
    local_parameters,
    memory,
    simulate_packing,
    training_footprint,
)
from steerlm.training.layout import LayoutSettings

LLAMA70 = SHAPES["meta-llama/Llama-2-70b-hf"]
TINY = ModelShape(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    tie_word_embeddings=True,
)


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("meta-llama/Llama-2-7b-hf", 6.738),
        ("meta-llama/Llama-2-13b-hf", 13.016),
        ("meta-llama/Llama-2-70b-hf", 68.977),
        ("meta-llama/Meta-Llama-3-8B", 8.030),
        ("meta-llama/Meta-Llama-3-70B", 70.554),
        ("HuggingFaceTB/SmolLM2-360M", 0.3618),
    ],
)
def test_public_models_have_their_published_size(name: str, billions: float) -> None:
    shape = public_shape(f"hf://{name}@main")
    assert shape is not None
    assert round(shape.parameters() / 1e9, 4 if billions < 1 else 3) == billions


def test_an_unknown_model_has_no_shape() -> None:
    assert public_shape("hf://someone/else") is None


@pytest.mark.parametrize("outputs", [None, 9])
@pytest.mark.parametrize("tied", [True, False])
def test_the_parts_add_up_to_the_whole(outputs: int | None, tied: bool) -> None:
    shape = TINY.model_copy(update={"tie_word_embeddings": tied})
    whole = local_parameters(shape, LayoutSettings(), outputs, 0)
    assert whole == shape.parameters(outputs)
    cut = LayoutSettings(devices=4, tensor=2, pipeline=2)
    parts = 2 * sum(local_parameters(shape, cut, outputs, stage) for stage in (0, 1))
    replicated = shape.hidden_size * (2 * shape.num_hidden_layers + 1 + (outputs or 0))  # norms, a reward head
    twice = shape.vocab_size * shape.hidden_size if tied and not outputs else 0
    assert parts == whole + replicated + twice


def test_memory_shrinks_as_the_layout_grows() -> None:
    settings = SFTSettings(max_steps=1, global_batch=128, window=4096)
    one = memory(LLAMA70, settings, LayoutSettings(), None)
    many = memory(LLAMA70, settings, LayoutSettings(nodes=32, devices=8, tensor=8, pipeline=2), None)
    assert one.total > 2**40
    assert one.weights / many.weights == pytest.approx(16, rel=0.01)
    assert one.optimizer / many.optimizer == pytest.approx(16 * 16, rel=0.01)
    full = memory(LLAMA70, settings, LayoutSettings(nodes=32, devices=8, tensor=8, pipeline=2, recompute="full"), None)
    assert full.activations < many.activations / 4
    assert full.total < 80 * 2**30


def test_a_pipelines_first_stage_keeps_several_rows() -> None:
    settings = RewardSettings(max_steps=1, global_batch=64, window=4096)
    layout = LayoutSettings(devices=4, pipeline=4)
    several, single = (memory(LLAMA70, settings, layout, 9, rows).activations for rows in (8, 1))
    assert several == 4 * single


def test_flops_are_six_per_weight_and_attention() -> None:
    assert flops_per_token(TINY, None, 0) == 6 * TINY.parameters()
    assert flops_per_token(TINY, None, 10) - flops_per_token(TINY, None, 0) == 6 * 4 * 32 * 10
    assert flops_per_token(TINY, 9, 0) == 6 * (TINY.parameters(9) - 64 * 32)


def test_rows_are_packed_as_in_training() -> None:
    settings = SFTSettings(max_steps=1, global_batch=4, window=8)
    layout = LayoutSettings(devices=2, micro_batch=1)
    full = simulate_packing([8, 8, 8, 8], settings, layout, steps=1)
    assert (full.tokens, full.computed, full.rows, full.context) == (32, 32, 2, 8)
    uneven = simulate_packing([8, 2, 2, 2], settings, layout, steps=1)  # 8 beside 6
    assert (uneven.tokens, uneven.computed, uneven.rows) == (14, 16, 1)
    assert uneven.real_token_share == 14 / 16
    draw = np.random.default_rng(0).integers(10, 60, 2000).tolist()
    many = simulate_packing(draw, SFTSettings(max_steps=1, global_batch=128, window=64), LayoutSettings(micro_batch=16))
    assert many.real_token_share == 1
    assert many.row_tokens * many.rows == pytest.approx(many.tokens)


@pytest.mark.parametrize(
    ("layout", "computed"),
    [
        ({}, 7 + 5 + 5),
        ({"devices": 2, "tensor": 2, "sequence_parallel": True}, 8 + 6 + 6),
        ({"devices": 2, "pipeline": 2}, 7 + 7 + 7),
        ({"devices": 4, "tensor": 2, "pipeline": 2, "sequence_parallel": True}, 8 + 8 + 8),
    ],
)
def test_a_pipelines_rows_are_padded_to_the_longest(layout: dict[str, Any], computed: int) -> None:
    settings = SFTSettings(max_steps=1, global_batch=3, window=8)
    packed = simulate_packing([7, 5, 5], settings, LayoutSettings(**layout), steps=1)
    assert (packed.tokens, packed.rows, packed.computed, packed.row_tokens) == (17, 3, computed, computed / 3)


def test_selective_recomputation_saves_the_rotated_key_and_the_logarithms() -> None:
    """Per token and layer, in bf16: 2 key-value heads of 8 numbers, 4 fp32 logarithms."""
    kept = [activation_bytes(TINY, LayoutSettings(recompute=how), "bf16", 10) for how in ("none", "selective")]
    assert kept[0] - kept[1] == 10 * 4 * (2 * 2 * 8 + 4 * 4)


def test_bf16_gradients_halve_their_buffer() -> None:
    layout, settings = LayoutSettings(nodes=32, devices=8, tensor=8, pipeline=2), SFTSettings(max_steps=1)
    full = memory(LLAMA70, settings, layout, None)
    half = memory(LLAMA70, settings.model_copy(update={"reduce_gradients": "bf16"}), layout, None)
    assert (full.gradients, half.gradients) == (2 * full.weights, half.weights)
    assert half.weights == full.weights


def test_a_process_writes_its_share_of_a_checkpoint() -> None:
    """Weights take 2 bytes, fp32 master weights and two moments 12; both are sharded over 16 replicas."""
    settings = SFTSettings(max_steps=1, global_batch=128, window=4096)
    footprint = training_footprint(LLAMA70, settings, LayoutSettings(nodes=32, devices=8, tensor=8, pipeline=2), None)
    assert footprint.checkpoint_bytes_per_process == footprint.parameters_per_process * 14 // 16
    assert footprint.checkpoint_bytes == 68_976_648_192 * 14
    in_fp32 = training_footprint(
        TINY, SFTSettings(max_steps=1, window=64, precision="fp32"), LayoutSettings(devices=2), None
    )
    assert in_fp32.checkpoint_bytes_per_process == TINY.parameters() * (4 + 8) // 2


@pytest.mark.parametrize(
    ("layout", "settings", "message"),
    [
        ({"devices": 3, "tensor": 3}, {}, "num_attention_heads 4 does not divide by layout.tensor 3"),
        ({"devices": 4, "tensor": 4}, {}, "num_key_value_heads 2 does not divide"),
        ({"devices": 3, "pipeline": 3}, {}, "num_hidden_layers 4 does not divide by layout.pipeline 3"),
        ({"devices": 16}, {"global_batch": 8}, "global_batch 8 is less than the layout's 16 data-parallel replicas"),
        ({}, {"window": 65}, "window 65 is longer than the model's 64 positions"),
    ],
)
def test_impossible_settings_are_refused(layout: dict[str, Any], settings: dict[str, Any], message: str) -> None:
    values = {"max_steps": 1, "global_batch": 64, "window": 64, **settings}
    with pytest.raises(ConfigError, match=message):
        training_footprint(TINY, SFTSettings(**values), LayoutSettings(**layout), None)


def test_an_interleaved_pipeline_is_refused_with_the_reason() -> None:
    with pytest.raises(ValidationError, match="wrong gradients"):
        LayoutSettings(devices=2, pipeline=2, virtual_pipeline=2)
