# SPDX-License-Identifier: Apache-2.0
"""The parts of a model folder are compared before it is fetched or trained, and a mended one is then taken."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from steerlm.errors import ModelError
from steerlm.models.check import check_folder_weights, check_weights
from steerlm.models.families import FAMILIES
from steerlm.models.fetch import fetch_model
from steerlm.models.folder import ModelInfo
from steerlm.models.shape import ModelShape
from steerlm.models.tensors import SCORE, tensor_shapes
from tests.models.conftest import OWN, Make, config

Spoil = Callable[[Path], Any]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("outputs", [None, 3])
def test_names_and_shapes_are_those_of_transformers(
    tmp_path: Path, family: str, tied: bool, outputs: int | None
) -> None:
    shaped = config(family, tie_word_embeddings=tied, head_dim=16, **({"num_labels": outputs} if outputs else {}))
    model: Any = (AutoModelForSequenceClassification if outputs else AutoModelForCausalLM).from_config(shaped)
    model.save_pretrained(tmp_path)
    wanted = {name: tuple(weight.shape) for name, weight in load_file(tmp_path / "model.safetensors").items()}
    assert tensor_shapes(ModelShape.from_folder(tmp_path), outputs) == wanted


def reconfigure(**values: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return spoil


def store(change: Callable[[dict[str, torch.Tensor]], Any]) -> Spoil:
    def spoil(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        change(weights)
        (folder / "model.safetensors").unlink()
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return spoil


def add_token(folder: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)


NORM, QUERY = "model.norm.weight", "model.layers.1.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (add_token, r"its tokenizer has 321 tokens, the model's vocabulary 320: there is no row for '\[PAD\]', id 320"),
        (reconfigure(vocab_size=328), r"embed_tokens.weight has shape \[320, 32\], config.json implies \[328, 32\]"),
        (reconfigure(num_key_value_heads=4), r"layers.0.self_attn.k_proj.weight has shape \[16, 32\], .* \[32, 32\]"),
        (reconfigure(num_hidden_layers=1), "layers.1.* has no place in the model that config.json describes"),
        (reconfigure(num_hidden_layers=3), r"weight model\.layers\.2\.input_layernorm\.weight is missing"),
        (reconfigure(model_type="qwen2"), r"weight model\.layers\.0\.self_attn\.q_proj\.bias is missing"),
        (reconfigure(eos_token_id=[1, 320]), r"config.json: eos_token_id is 320, the model's vocabulary has 320"),
        (store(lambda w: w.pop("lm_head.weight")), r"weight lm_head\.weight is missing"),
        (store(lambda w: w.pop(NORM)), r"weight model\.norm\.weight is missing"),
        (store(lambda w: w.update({NORM: torch.ones(32, dtype=torch.int8)})), r"model\.norm\.weight is I8"),
        (store(lambda w: w.update({QUERY + ".bias": torch.ones(32)})), r"q_proj\.weight\.bias has no place"),
        (store(lambda w: w.update({SCORE: torch.ones(3, 32)})), r"score\.weight has no place"),
    ],
)
def test_a_model_whose_parts_differ_is_refused_and_the_mended_one_fetched_by_the_same_command(
    make_folder: Make, tmp_path: Path, spoil: Spoil, message: str
) -> None:
    source, target = make_folder(ModelInfo("base"), "source"), tmp_path / "fetched"
    (source / "steerlm.json").unlink()
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    spoil(source)
    with pytest.raises(ModelError, match=message):
        fetch_model(str(source), target)
    assert not target.exists()
    for path in source.iterdir():
        path.unlink()
    for name, content in before.items():
        (source / name).write_bytes(content)
    fetch_model(str(source), target)
    check_folder_weights(target)


def test_old_folders_hold_rotary_frequencies_and_minus_one_for_no_padding(make_folder: Make) -> None:
    folder = make_folder(ModelInfo("base"))
    store(lambda w: w.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}))(folder)
    reconfigure(pad_token_id=-1)(folder)
    check_folder_weights(folder)


def test_a_reward_model_needs_a_head_for_its_attributes(make_folder: Make) -> None:
    folder = make_folder(ModelInfo("reward", attributes=OWN))
    check_folder_weights(folder)
    store(lambda w: w.update({SCORE: torch.ones(2, 32)}))(folder)
    with pytest.raises(ModelError, match=r"score\.weight has shape \[2, 32\], config\.json implies \[3, 32\]"):
        check_folder_weights(folder)


def test_a_training_replaces_the_head_of_its_initial_model(make_folder: Make) -> None:
    base, reward = make_folder(ModelInfo("base"), "b"), make_folder(ModelInfo("reward", attributes=OWN), "r")
    for folder in (base, reward):
        check_weights(folder, ModelShape.from_folder(folder), 3, initial=True)
    check_weights(base, ModelShape.from_folder(base), None, initial=True)
    with pytest.raises(ModelError, match=r"lm_head\.weight is missing.*\(a reward model has no LM head\)"):
        check_weights(reward, ModelShape.from_folder(reward), None, initial=True)
