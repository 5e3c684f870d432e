# SPDX-License-Identifier: Apache-2.0
"""Sizes are read from every spelling of a config.json, and what the trainer cannot do is refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaConfig

from steerlm.errors import ModelError
from steerlm.models.families import FAMILIES
from steerlm.models.public import SHAPES
from steerlm.models.shape import ModelShape, RopeScaling
from tests.models.conftest import config

# As they stand in the folders of the hub (facts of the models; keys that do not matter here left out).
LLAMA2_13B = {
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_attention_heads": 40,
    "num_hidden_layers": 40,
    "num_key_value_heads": 40,
    "rope_scaling": None,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
}
LLAMA2_70B = LLAMA2_13B | {
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_attention_heads": 64,
    "num_hidden_layers": 80,
    "num_key_value_heads": 8,
}
LLAMA3_70B = LLAMA2_70B | {"vocab_size": 128256, "rope_theta": 500000.0, "max_position_embeddings": 8192}
SCALING = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
LLAMA31_70B = LLAMA3_70B | {"rope_scaling": SCALING, "max_position_embeddings": 131072}


def write(folder: Path, **content: Any) -> Path:
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"} | content))
    return folder


@pytest.mark.parametrize(
    ("content", "parameters"),
    [
        (LLAMA2_13B, 13_015_864_320),
        (LLAMA2_70B, 68_976_648_192),
        (LLAMA3_70B, 70_553_706_496),
        (LLAMA31_70B, 70_553_706_496),
    ],
)
def test_parameters_of_the_published_models(tmp_path: Path, content: dict[str, Any], parameters: int) -> None:
    assert ModelShape.from_folder(write(tmp_path, **content)).parameters() == parameters


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("Qwen/Qwen2.5-0.5B", 494_032_768),
        ("Qwen/Qwen2.5-1.5B", 1_543_714_304),
        ("Qwen/Qwen2.5-7B", 7_615_616_512),
        ("Qwen/Qwen2.5-72B-Instruct", 72_706_203_648),
        ("mistralai/Mistral-7B-v0.3", 7_248_023_552),
    ],
)
def test_parameters_of_other_families(name: str, parameters: int) -> None:
    assert SHAPES[name].parameters() == parameters


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("outputs", [None, 9])
def test_parameters_are_those_of_the_model(tmp_path: Path, family: str, tied: bool, outputs: int | None) -> None:
    shaped = config(family, tie_word_embeddings=tied, head_dim=16)
    if outputs:
        shaped.num_labels = outputs
    model: Any = (AutoModelForSequenceClassification if outputs else AutoModelForCausalLM).from_config(shaped)
    shaped.save_pretrained(tmp_path)
    wanted = sum(parameter.numel() for parameter in model.parameters())
    assert ModelShape.from_folder(tmp_path).parameters(outputs) == wanted


@pytest.mark.parametrize("content", [LLAMA2_13B, LLAMA2_70B, LLAMA3_70B, LLAMA31_70B])
def test_what_is_written_is_read_again_by_us_and_by_transformers(tmp_path: Path, content: dict[str, Any]) -> None:
    shape = ModelShape.from_folder(write(tmp_path, **content))
    theirs = AutoConfig.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(shape.to_config()))
    again = AutoConfig.from_pretrained(tmp_path)
    assert ModelShape.from_folder(tmp_path) == shape
    assert again.rope_parameters == theirs.rope_parameters
    for key in ModelShape.model_fields:
        if key not in ("rope_scaling", "rope_theta"):
            assert getattr(again, key) == getattr(theirs, key), key


def test_scaled_rope_gives_the_same_frequencies(tmp_path: Path) -> None:
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    scaled = config(rope_parameters=SCALING | {"rope_theta": 500000.0})
    scaled.save_pretrained(tmp_path)
    shape = ModelShape.from_folder(tmp_path)
    assert shape.rope_scaling == RopeScaling(
        factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192
    )
    ours = LlamaConfig(**{k: v for k, v in shape.to_config().items() if k != "model_type"})
    assert torch.equal(LlamaRotaryEmbedding(ours).inv_freq, LlamaRotaryEmbedding(scaled).inv_freq)
    assert not torch.equal(LlamaRotaryEmbedding(ours).inv_freq, LlamaRotaryEmbedding(config()).inv_freq)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_config_is_of_its_family_when_written_again(tmp_path: Path, family: str) -> None:
    theirs = config(family)
    theirs.save_pretrained(tmp_path)
    shape = ModelShape.from_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(shape.to_config()))
    again = AutoConfig.from_pretrained(tmp_path)
    assert type(again) is type(theirs) and again.architectures == [f"{FAMILIES[family].name}ForCausalLM"]
    assert shape.rms_norm_eps == theirs.rms_norm_eps == again.rms_norm_eps
    assert getattr(again, "sliding_window", None) is None
    assert set(getattr(again, "layer_types", None) or ["full_attention"]) == {"full_attention"}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_key_that_a_config_leaves_out_is_what_transformers_takes_it_for(tmp_path: Path, family: str) -> None:
    """All keys that are read: those of the shape, and those by which a model is refused."""
    theirs, defaults = AutoConfig.for_model(family), FAMILIES[family].defaults
    assert {*ModelShape.model_fields} - {"model_type", "rope_scaling"} <= defaults.keys()
    derived = {
        "rope_theta": theirs.rope_parameters["rope_theta"],
        "head_dim": None,
        "num_key_value_heads": theirs.num_key_value_heads if family != "llama" else None,
    }
    for key, value in defaults.items():
        assert value == (derived[key] if key in derived else getattr(theirs, key)), key
    # And all of them absent at once, but for a window that would be refused.
    shape = ModelShape.from_folder(write(tmp_path, model_type=family, sliding_window=None))
    absent: Any = AutoConfig.for_model(family, sliding_window=None)
    for key in ModelShape.model_fields.keys() - {"rope_scaling", "rope_theta", "head_dim"}:
        assert getattr(shape, key) == getattr(absent, key), key
    assert (shape.rope_theta, shape.rope_scaling) == (absent.rope_parameters["rope_theta"], None)
    assert shape.head_size == absent.hidden_size // absent.num_attention_heads


@pytest.mark.parametrize("old", [None, {}, {"rope_type": "default"}, SCALING, SCALING | {"rope_theta": 1e6}])
@pytest.mark.parametrize("new", [None, {}, {"rope_theta": 2e6, "rope_type": "default"}, SCALING | {"factor": 4.0}])
@pytest.mark.parametrize("theta", [{}, {"rope_theta": 5e5}])
def test_rotary_settings_in_two_spellings_are_read_as_transformers_reads_them(
    tmp_path: Path, old: Any, new: Any, theta: dict[str, float]
) -> None:
    write(tmp_path, **LLAMA2_13B | {"rope_scaling": old, "rope_parameters": new} | theta)
    shape, theirs = ModelShape.from_folder(tmp_path), AutoConfig.from_pretrained(tmp_path).rope_parameters
    assert shape.rope_theta == theirs["rope_theta"]
    assert (shape.rope_scaling is not None) == (theirs["rope_type"] == "llama3")
    if shape.rope_scaling:
        assert shape.rope_scaling.model_dump() == {key: theirs[key] for key in RopeScaling.model_fields}


MISTRAL: dict[str, Any] = {"model_type": "mistral", "max_position_embeddings": 8192}


@pytest.mark.parametrize("window", [None, 8192, 9000])
def test_a_mistral_whose_window_is_the_whole_context_is_taken(tmp_path: Path, window: int | None) -> None:
    shape = ModelShape.from_folder(write(tmp_path, **LLAMA2_70B | MISTRAL | {"sliding_window": window}))
    assert shape.model_type == "mistral" and shape.to_config()["sliding_window"] is None


def test_a_qwen2_whose_window_is_not_used_is_taken(tmp_path: Path) -> None:
    unused = {"model_type": "qwen2", "use_sliding_window": False, "sliding_window": 1024, "max_window_layers": 21}
    assert ModelShape.from_folder(write(tmp_path, **LLAMA2_70B | unused)).qkv_biases == (64 + 2 * 8) * 128


def test_a_shape_of_an_unknown_family_is_refused() -> None:
    with pytest.raises(ValueError, match="model_type 'bert' is not supported; supported are 'llama', 'mistral', 'qwen"):
        ModelShape(**LLAMA2_13B, model_type="bert")


def test_absent_or_null_key_value_heads_are_as_many_as_query_heads(tmp_path: Path) -> None:
    content: dict[str, Any] = dict(LLAMA2_13B)
    assert ModelShape.from_folder(write(tmp_path, **content | {"num_key_value_heads": None})).num_key_value_heads == 40
    del content["num_key_value_heads"]
    assert ModelShape.from_folder(write(tmp_path, **content)).num_key_value_heads == 40


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gemma2"}, "model_type 'gemma2' is not supported; supported are 'llama', 'mistral', 'qwen2'"),
        ({"model_type": None}, "model_type None is not supported; supported are 'llama'"),
        (MISTRAL | {"sliding_window": 4096}, "sliding_window 4096 is shorter than max_position_embeddings 8192"),
        (MISTRAL, "sliding_window 4096 is shorter"),  # what transformers takes an absent one for
        ({"model_type": "qwen2", "use_sliding_window": True}, "use_sliding_window is not supported"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types 'sliding_attention' is not supported"),
        ({"attention_bias": True}, "attention_bias is not supported"),
        ({"mlp_bias": True}, "mlp_bias is not supported"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantized"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type 'linear'"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, "low_freq_factor: is missing"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "rotary settings by type of layer"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported"),
        ({"transformers_weights": "other.safetensors"}, "engines would read different weights"),
        ({"num_key_value_heads": 7}, "must be a multiple of num_key_value_heads"),
        ({"hidden_size": 5121}, "must be a multiple of num_attention_heads"),
        ({"vocab_size": 0}, "vocab_size: a number above 0 was expected, not 0"),
        ({"hidden_size": None}, "hidden_size: a whole number was expected, not null"),
    ],
)
def test_what_cannot_be_trained_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        ModelShape.from_folder(write(tmp_path, **LLAMA2_13B | change))
    assert str(tmp_path / "config.json") in str(caught.value)


def test_a_missing_or_broken_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        ModelShape.from_folder(tmp_path)
    (tmp_path / "config.json").write_text("{\n]")
    with pytest.raises(ModelError, match=r"config\.json:2: not JSON"):
        ModelShape.from_folder(tmp_path)
