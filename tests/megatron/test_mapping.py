# SPDX-License-Identifier: Apache-2.0
"""The table of names: every Hugging Face tensor is somewhere whole, exactly once, in every layout."""

from collections import defaultdict

import pytest
import torch

from steerlm.megatron.mapping import ModelParallelRank, Parameter, Slice, fuse, parameters, split
from steerlm.models.shape import ModelShape
from tests.megatron.material import GQA, OUTPUTS, SHAPES


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("outputs", [None, OUTPUTS])
@pytest.mark.parametrize(("tensors", "stages"), [(1, 1), (2, 1), (1, 4), (2, 2)])
def test_every_tensor_is_covered_once(shape: ModelShape, outputs: int | None, tensors: int, stages: int) -> None:
    seen: dict[str, list[Slice]] = defaultdict(list)
    for stage in range(stages):
        for tensor in range(tensors):
            for parameter in parameters(shape, ModelParallelRank(tensor, tensors, stage, stages), outputs):
                for part in () if parameter.copy else parameter.parts:
                    seen[part.name].append(part)
    sizes = 0
    for name, parts in seen.items():
        assert len({part.shape for part in parts}) == 1 and len(parts) == tensors, name
        if parts[0].dim is not None:
            assert [part.start for part in parts[1:]] == [part.stop for part in parts[:-1]]
            assert parts[0].start == 0 and parts[-1].stop == parts[0].shape[parts[0].dim]
        sizes += torch.Size(parts[0].shape).numel()
    assert sizes == shape.parameters(outputs)
    per_layer = 9 + 3 * shape.family.qkv_bias
    assert len(seen) == per_layer * shape.num_hidden_layers + (2 if shape.tie_word_embeddings and not outputs else 3)


def test_the_last_stage_has_a_copy_of_tied_embeddings() -> None:
    last = parameters(SHAPES["tied"], ModelParallelRank(stage=1, stages=2), None)
    assert last[-1].copy and last[-1].parts[0].name == "model.embed_tokens.weight"


def test_a_group_holds_its_queries_then_its_key_and_value() -> None:
    qkv = next(p for p in parameters(GQA, ModelParallelRank(), None) if p.name.endswith("linear_qkv.weight"))
    heads = [torch.arange(4.0), torch.arange(10.0, 12), torch.arange(20.0, 22)]  # a number per head
    parts = [head.repeat_interleave(8)[:, None].expand(-1, 32) for head in heads]
    fused = fuse(parts, qkv.groups)
    assert fused[::8, 0].tolist() == [0, 1, 10, 20, 2, 3, 11, 21]
    for got, part in zip(split(fused, qkv), parts, strict=True):
        assert torch.equal(got, part)


def test_split_is_the_inverse_of_fuse() -> None:
    for parameter in parameters(GQA, ModelParallelRank(1, 2, 1, 2), None):
        parts = [torch.randn(_local(part)) for part in parameter.parts]
        again = split(fuse(parts, parameter.groups), parameter)
        assert all(torch.equal(a, b) for a, b in zip(parts, again, strict=True))


def _local(part: Slice) -> list[int]:
    return [part.stop - part.start if dim == part.dim else size for dim, size in enumerate(part.shape)]


def test_transformer_engine_keeps_norms_in_the_linear_layers() -> None:
    def names(fused: bool) -> set[str]:
        own: list[Parameter] = parameters(GQA, ModelParallelRank(), None, fused)
        return {p.name for p in own if "layers.0." in p.name}

    assert names(True) - names(False) == {
        "decoder.layers.0.self_attention.linear_qkv.layer_norm_weight",
        "decoder.layers.0.mlp.linear_fc1.layer_norm_weight",
    }
