"""Hugging Face folders in and out: bit for bit, in shards, the same from every layout; what transformers computes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaForCausalLM, LlamaForSequenceClassification

from steerlm.errors import ModelError
from steerlm.megatron import hf_io, parallel
from steerlm.training.config import LayoutSettings
from steerlm.training.rows import Row, Sample
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
    of.forward([Row(tuple(texts))], "logprobs")
    model = LlamaForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        theirs = [model(torch.tensor(s.ids.tolist())[None]).logits[0, :-1] for s in texts]
    (ours,) = seen
    return list(ours.split([len(part) for part in theirs])), theirs


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
    return of.forward([Row(tuple(samples(7, OUTPUTS)))], "values")


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
    hf_io.write(of.model, of.own, of.shape, parallel.place(), None, folder, limit=limit)


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
    assert "no *.safetensors file" in refused()


def test_a_folder_that_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    one(_broken, transformers_folder(tmp_path, GQA))
