# SPDX-License-Identifier: Apache-2.0
"""One answer to which weights a folder holds: transformers' own, and a refusal where engines would differ."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from steerlm.errors import ModelError
from steerlm.inference.loading import load
from steerlm.models.fetch import fetch_model
from steerlm.models.folder import ModelInfo
from steerlm.models.shape import ModelShape
from steerlm.models.tensors import model_tensors, tensor_shapes
from steerlm.models.weights import INDEX, SINGLE, StoredTensor, folder_files, stored_tensors
from tests.models.conftest import Make

EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"


def shard(folder: Path, *, keep: bool = False) -> dict[str, str]:
    """Store a folder's weights in two shards with an index, in place of the single file or beside it."""
    weights = load_file(folder / SINGLE)
    places = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(sorted(weights))}
    for file in set(places.values()):
        part = {name: weights[name] for name in weights if places[name] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    if not keep:
        (folder / SINGLE).unlink()
    return places


def values(tensors: dict[str, StoredTensor], name: str) -> torch.Tensor:
    tensor: torch.Tensor = load_file(tensors[name].file)[tensors[name].name]
    return tensor


def test_an_old_index_beside_a_newer_single_file_is_read_as_transformers_reads_it(
    make_folder: Make, tmp_path: Path
) -> None:
    """transformers' save_pretrained into a sharded folder deletes the shards and leaves their index."""
    folder = make_folder(ModelInfo("base"))
    shard(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.model.norm.weight.mul_(3)
    model.save_pretrained(folder)
    assert (folder / INDEX).exists() and folder_files(folder) == [folder / SINGLE]
    theirs: Any = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(values(stored_tensors(folder), NORM), theirs.model.norm.weight)
    assert torch.equal(load(folder, head=False).model.model.norm.weight, theirs.model.norm.weight)
    fetch_model(str(folder), tmp_path / "fetched")
    assert not (tmp_path / "fetched" / INDEX).exists()  # other engines look for it first
    assert torch.equal(values(stored_tensors(tmp_path / "fetched"), NORM), theirs.model.norm.weight)


def test_two_sets_of_weights_are_refused_by_every_reader(make_folder: Make, tmp_path: Path) -> None:
    folder = make_folder(ModelInfo("base"))
    shard(folder, keep=True)
    message = "holds weights twice, model.safetensors and those that model.safetensors.index.json names"
    with pytest.raises(ModelError, match=message):
        folder_files(folder)
    with pytest.raises(ModelError, match=message):
        load(folder, head=False)
    with pytest.raises(ModelError, match=message):
        fetch_model(str(folder), tmp_path / "fetched")
    assert not (tmp_path / "fetched").exists()
    (folder / INDEX).unlink()
    fetch_model(str(folder), tmp_path / "fetched")  # the same command, after the folder was mended


def test_the_files_decide_not_the_index_what_lies_where(make_folder: Make) -> None:
    """As in transformers: an index that names the wrong one of two files gives the right tensors."""
    folder = make_folder(ModelInfo("base"))
    wanted, places = load_file(folder / SINGLE), shard(folder)
    first, second = sorted(set(places.values()))
    swapped = {name: second if file == first else first for name, file in places.items()}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": swapped}))
    tensors = stored_tensors(folder)
    assert tensors.keys() == wanted.keys()
    assert all(torch.equal(values(tensors, name), wanted[name]) for name in wanted)
    theirs: Any = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(theirs.lm_head.weight, wanted[HEAD])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "model-00002-of-00002.safetensors").unlink(), "model-00002-of-00002.safetensors is missing"),
        (lambda f: (f / INDEX).write_text("{}"), "is not an index of weights"),
        (lambda f: (f / INDEX).write_text('{"weight_map": {"a": "../elsewhere.safetensors"}}'), "is not an index"),
        (lambda f: (f / INDEX).write_text("{"), "not an index of weights"),
        (lambda f: (f / INDEX).unlink(), "no weights: .* model-00001-of-00002.safetensors alone does not say"),
        (lambda f: (f / "adapter_config.json").write_text("{}"), "holds an adapter"),
        (lambda f: (f / "model-00001-of-00002.safetensors").write_bytes(b"short"), "cannot be read"),
    ],
)
def test_weights_that_are_not_whole_are_named(make_folder: Make, spoil: Any, message: str) -> None:
    folder = make_folder(ModelInfo("base"))
    shard(folder)
    spoil(folder)
    with pytest.raises(ModelError, match=message) as caught:
        stored_tensors(folder)
    assert str(folder) in str(caught.value)


def test_a_tensor_in_two_files_is_refused(make_folder: Make) -> None:
    folder = make_folder(ModelInfo("base"))
    shard(folder)
    file = folder / "model-00001-of-00002.safetensors"
    save_file(load_file(file) | {EMBEDDING: torch.zeros(320, 32)}, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"model\.embed_tokens\.weight is in model-0000"):
        stored_tensors(folder)


def tied(make_folder: Make) -> Path:
    return make_folder(ModelInfo("base"), tie_word_embeddings=True)


def test_a_head_of_its_own_is_kept_where_the_config_says_tied(make_folder: Make) -> None:
    folder = tied(make_folder)
    weights = load_file(folder / SINGLE)
    save_file(weights | {HEAD: weights[EMBEDDING].flip(0).contiguous()}, folder / SINGLE, metadata={"format": "pt"})
    theirs: Any = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(theirs.lm_head.weight, weights[EMBEDDING].flip(0))
    shape = ModelShape.from_folder(folder)
    assert not shape.tie_word_embeddings and HEAD in tensor_shapes(shape, None)
    assert shape.parameters() == sum(weight.numel() for weight in load_file(folder / SINGLE).values())
    assert torch.equal(values(model_tensors(folder, shape), HEAD), theirs.lm_head.weight)


def test_a_head_that_repeats_the_embedding_is_tied(make_folder: Make) -> None:
    folder = tied(make_folder)
    weights = load_file(folder / SINGLE)
    save_file(weights | {HEAD: weights[EMBEDDING].clone()}, folder / SINGLE, metadata={"format": "pt"})
    assert ModelShape.from_folder(folder).tie_word_embeddings


def test_a_tied_file_with_the_head_only_is_read(make_folder: Make, tmp_path: Path) -> None:
    folder = tied(make_folder)
    weights = load_file(folder / SINGLE)
    renamed = {HEAD if name == EMBEDDING else name: weight for name, weight in weights.items()}
    save_file(renamed, folder / SINGLE, metadata={"format": "pt"})
    fetch_model(str(folder), tmp_path / "fetched")
    shape = ModelShape.from_folder(folder)
    assert shape.tie_word_embeddings
    tensors = model_tensors(folder, shape)
    assert tensors.keys() == tensor_shapes(shape, None).keys()
    assert torch.equal(values(tensors, EMBEDDING), weights[EMBEDDING])
    theirs: Any = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(theirs.model.embed_tokens.weight, weights[EMBEDDING])
