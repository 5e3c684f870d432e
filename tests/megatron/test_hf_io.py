# SPDX-License-Identifier: Apache-2.0
"""Hugging Face folders in and out: bit for bit, in shards, the same from every layout; what transformers computes."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM, LlamaForSequenceClassification

from steerlm.errors import ModelError
from steerlm.megatron import hf_io, parallel
from steerlm.megatron.mapping import Slice, fuse
from steerlm.models.shape import ModelShape
from steerlm.training.data import Row, Sample
from steerlm.training.layout import LayoutSettings
from tests.megatron.forked import one, ranks
from tests.megatron.material import (
    GQA,
    OUTPUTS,
    SHAPES,
    curve,
    engine,
    same,
    samples,
    transformers_folder,
    weights,
    write_config,
)
from tests.megatron.outputs import model_outputs


def _through(source: Path, target: Path, layout: dict[str, Any], precision: str, outputs: int | None) -> None:
    engine(folder=source, layout=layout, precision=precision, outputs=outputs).write_hf(target)


@pytest.mark.parametrize("name", SHAPES)
def test_round_trip_is_bit_exact(name: str, tmp_path: Path) -> None:
    source = transformers_folder(tmp_path / "source", SHAPES[name])
    one(_through, source, tmp_path / "again", {}, "fp32", None)
    same(tmp_path / "again", source)


def test_round_trip_in_bf16_and_in_pieces(tmp_path: Path) -> None:
    source = transformers_folder(tmp_path / "source", SHAPES["tied"], torch.bfloat16)
    layout = {"devices": 4, "tensor": 2, "pipeline": 2}
    ranks(4, _through, source, tmp_path / "again", layout, "bf16", None)
    same(tmp_path / "again", source)


def _logits(folder: Path) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    of = engine(folder=folder)
    seen: list[torch.Tensor] = []  # copies: the loss is computed in place
    of.model.output_layer.register_forward_hook(lambda module, args, out: seen.append(out[0].squeeze(1).clone()))
    # Learned throughout, so that the logits of every position but the last are computed.
    texts = [Sample(s.ids, torch.tensor([0.0] + [1.0] * (len(s.ids) - 1)).numpy()) for s in samples(3, count=5)]
    model_outputs(of, [Row(tuple(texts))], "logprobs")
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        theirs = [model(torch.tensor(s.ids.tolist())[None]).logits[0, :-1] for s in texts]
    (ours,) = seen
    return list(torch.split(ours, [len(part) for part in theirs])), theirs


@pytest.mark.parametrize("name", SHAPES)
def test_logits_equal_transformers(name: str, tmp_path: Path) -> None:
    ours, theirs = one(_logits, transformers_folder(tmp_path, SHAPES[name]))
    for a, b in zip(ours, theirs, strict=True):
        assert float(b.abs().max()) > 0.5 and float((a - b).abs().max()) < 2e-5


def _trained_reward(folder: Path) -> list[torch.Tensor]:
    of = engine(outputs=OUTPUTS)
    curve(of, OUTPUTS, range(3))
    of.write_hf(folder)
    write_config(folder, GQA, OUTPUTS)
    return model_outputs(of, [Row(tuple(samples(7, OUTPUTS)))], "values")


def test_rewards_equal_transformers_on_the_exported_folder(tmp_path: Path) -> None:
    (values,) = one(_trained_reward, tmp_path)
    texts = samples(7, OUTPUTS)
    width = max(len(s.ids) for s in texts)
    ids = torch.tensor([[*s.ids.tolist(), *([0] * (width - len(s.ids)))] for s in texts])
    model, loading = LlamaForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    with torch.no_grad():
        scores = model(ids, attention_mask=(ids != 0).long()).logits
    assert scores.shape == (len(texts), OUTPUTS) and float((scores - values).abs().max()) < 1e-5


def _heads(base: Path, folder: Path) -> None:
    for name, seed in (("fresh", 1), ("same", 1), ("other", 2)):
        engine(folder=base, outputs=OUTPUTS, seed=seed, head_init_std=0.5).write_hf(folder / name)


def test_a_reward_model_starts_from_a_base_or_from_a_reward_model(tmp_path: Path) -> None:
    base = transformers_folder(tmp_path / "base", GQA)
    one(_heads, base, tmp_path)
    same(tmp_path / "same", tmp_path / "fresh")
    fresh, body = weights(tmp_path / "fresh"), weights(base)
    assert fresh.keys() - body.keys() == {"score.weight"} and body.keys() - fresh.keys() == {"lm_head.weight"}
    assert all(torch.equal(fresh[name], body[name]) for name in fresh.keys() & body.keys())
    assert fresh["score.weight"].std() == pytest.approx(0.5, rel=0.15)
    assert not torch.equal(fresh["score.weight"], weights(tmp_path / "other")["score.weight"])
    write_config(tmp_path / "fresh", GQA, OUTPUTS)
    one(_through, tmp_path / "fresh", tmp_path / "again", {}, "fp32", OUTPUTS)  # settings draw another head
    same(tmp_path / "again", tmp_path / "fresh")


def _sharded(folder: Path, layout: dict[str, Any], limit: int) -> None:
    of = engine(layout=layout)
    hf_io.write(of.model, of.own, of.shape, parallel.model_parallel_rank(), None, folder, limit=limit)


@pytest.mark.parametrize("layout", [{}, {"devices": 2, "tensor": 2}, {"devices": 2, "pipeline": 2}])
def test_shards_keep_to_their_size_and_load(layout: dict[str, Any], tmp_path: Path) -> None:
    processes = LayoutSettings(**layout).processes
    ranks(processes, _sharded, tmp_path / "whole", layout, 10**9)
    ranks(processes, _sharded, tmp_path / "small", layout, 20_000)
    same(tmp_path / "small", tmp_path / "whole")
    files = sorted((tmp_path / "small").glob("*.safetensors"))
    assert len(files) > 4 and all(path.stat().st_size < 20_000 + 5_000 for path in files)  # 5 kB: its header
    index = json.loads((tmp_path / "small" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 4 * GQA.parameters()
    assert sorted(set(index["weight_map"].values())) == [path.name for path in files]
    write_config(tmp_path / "small", GQA, None)
    _, loading = LlamaForCausalLM.from_pretrained(tmp_path / "small", output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]


def _broken(folder: Path) -> None:
    def refused(**values: Any) -> str:
        with pytest.raises(ModelError) as caught:
            engine(folder=folder, **values)
        return str(caught.value)

    stored = weights(folder)
    path = folder / "model.safetensors"

    def store(**changed: torch.Tensor | None) -> None:
        kept = {name.replace("/", "."): value for name, value in {**stored, **changed}.items() if value is not None}
        save_file(kept, path, metadata={"format": "pt"})

    store(**{"lm_head.weight": None})
    assert refused().endswith("weight lm_head.weight is missing")
    store(**{"lm_head.weight": None, "score.weight": torch.zeros(OUTPUTS, 32)})
    assert "a reward model has no LM head" in refused()
    assert "score.weight has shape [9, 32], [4, 32] was expected" in refused(outputs=4)
    store(**{"model.norm.weight": torch.zeros(31)})
    assert "model.norm.weight has shape [31], [32] was expected" in refused()
    path.write_bytes(path.read_bytes()[:1000])
    assert "fetch the model again" in refused()
    path.unlink()
    assert "no weights: model.safetensors or model.safetensors.index.json was expected" in refused()


def test_a_folder_that_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    one(_broken, transformers_folder(tmp_path, GQA))


def _read_once(folder: Path, layout: dict[str, Any], precision: str) -> tuple[int, int, bool]:
    """Bytes this process read, bytes of its share of the model in the folder, whether its weights are those."""
    read, sizes = hf_io.WeightFolder.read, []

    def counted(self: hf_io.WeightFolder, part: Slice) -> torch.Tensor:
        tensor = read(self, part)
        sizes.append(tensor.numel() * tensor.element_size())
        return tensor

    hf_io.WeightFolder.read = counted  # type: ignore[method-assign]  # this process ends after the test
    of = engine(SHAPES["tied"], folder=folder, layout=layout, precision=precision)
    total = sum(sizes)
    sizes.clear()
    held, equal = dict(of.model.named_parameters()), True
    source = hf_io.WeightFolder(folder, SHAPES["tied"])
    for parameter in of.own:
        own = fuse([source.read(part) for part in parameter.parts], parameter.groups)
        equal &= torch.equal(held[parameter.name], own.to(held[parameter.name].dtype))
    return total, sum(sizes), equal


@pytest.mark.parametrize(
    ("layout", "stored", "precision"),
    [
        ({"devices": 3}, torch.float32, "fp32"),
        ({"devices": 4, "tensor": 2}, torch.float32, "bf16"),
        ({"devices": 4, "pipeline": 2}, torch.bfloat16, "fp32"),
        ({"devices": 4, "tensor": 2, "pipeline": 2}, torch.bfloat16, "bf16"),
    ],
)
def test_one_replica_reads_and_all_have_the_same_weights(
    layout: dict[str, Any], stored: torch.dtype, precision: str, tmp_path: Path
) -> None:
    folder = transformers_folder(tmp_path, SHAPES["tied"], stored)
    seen = ranks(layout["devices"], _read_once, folder, layout, precision)
    assert all(equal for _, _, equal in seen)
    replicas = LayoutSettings(**layout).data_parallel
    assert sum(read for read, _, _ in seen) * replicas == sum(share for _, share, _ in seen)
    if replicas == layout["devices"]:
        assert sum(read for read, _, _ in seen) == sum(t.numel() * t.element_size() for t in weights(folder).values())
    assert max(read for read, _, _ in seen) < max(share for _, share, _ in seen) or replicas == 1


def _refused(folder: Path, layout: dict[str, Any], fault: str | None = None) -> str:
    read = hf_io.WeightFolder.read

    def broken(self: hf_io.WeightFolder, part: Slice) -> torch.Tensor:
        if part.name == "model.layers.1.mlp.up_proj.weight":
            raise OSError("Input/output error")
        return read(self, part)

    if fault:
        hf_io.WeightFolder.read = broken  # type: ignore[method-assign]  # this process ends after the test
    with pytest.raises(ModelError) as caught:
        engine(folder=folder, layout=layout)
    return str(caught.value)


def _refused_headers(folder: Path, layout: dict[str, Any]) -> str:
    if dist.get_rank() == 1:

        def broken(self: hf_io.WeightFolder, path: Path, shape: ModelShape) -> None:
            raise ModelError(f"{path}: its headers cannot be read here")

        hf_io.WeightFolder.__init__ = broken  # type: ignore[method-assign]  # this process ends after the test
    with pytest.raises(ModelError) as caught:
        engine(folder=folder, layout=layout)
    return str(caught.value)


def test_headers_that_one_process_cannot_read_are_refused_on_all(tmp_path: Path) -> None:
    folder = transformers_folder(tmp_path, GQA)
    said = ranks(3, _refused_headers, folder, {"devices": 3})
    assert said == [f"{folder}: its headers cannot be read here"] * 3


@pytest.mark.parametrize("layout", [{"devices": 3}, {"devices": 4, "pipeline": 2}])
def test_what_one_process_cannot_read_is_raised_on_all(layout: dict[str, Any], tmp_path: Path) -> None:
    folder, count = transformers_folder(tmp_path, GQA), layout["devices"]
    said = set(ranks(count, _refused, folder, layout, "broken disk"))
    assert len(said) == 1 and re.fullmatch(r"rank \d cannot read the weights: OSError\('Input/output error'\)", *said)
    path, stored = folder / "model.safetensors", weights(folder)
    stored["model.layers.3.mlp.down_proj.weight"] = torch.zeros(7, 5)
    del stored["lm_head.weight"]
    save_file(stored, path, metadata={"format": "pt"})
    (shape,) = set(ranks(count, _refused, folder, layout))
    assert shape.endswith("model.layers.3.mlp.down_proj.weight has shape [7, 5], [32, 48] was expected")
    stored["model.layers.3.mlp.down_proj.weight"] = torch.zeros(32, 48)
    save_file(stored, path, metadata={"format": "pt"})
    (missing,) = set(ranks(count, _refused, folder, layout))
    assert missing.endswith("weight lm_head.weight is missing")
