# SPDX-License-Identifier: Apache-2.0
"""Maps Hugging Face's weights to megatron's: names, and which slice of which tensor a process holds. Pure.

Megatron fuses: `linear_qkv` holds, per key-value group, the rows of its queries, its key and its value (of weight and
bias alike); `linear_fc1` holds the gate's rows, then the up projection's. Tensor parallelism cuts each Hugging Face
tensor along one dimension before fusing, so that every part of every parameter is one contiguous slice of one file
tensor.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from steerlm.models.shape import ModelShape
from steerlm.models.tensors import SCORE, TensorShapes, tensor_shapes


@dataclass(frozen=True, slots=True)
class ModelParallelRank:
    """A process's place in the model-parallel grid: tensor shard `tensor` of `tensors`, stage `stage` of `stages`."""

    tensor: int = 0
    tensors: int = 1
    stage: int = 0
    stages: int = 1


@dataclass(frozen=True, slots=True)
class Slice:
    """Elements `start` to `stop` along `dim` of the Hugging Face tensor `name` of `shape`; all if `dim` is None."""

    name: str
    shape: tuple[int, ...]
    dim: int | None = None
    start: int = 0
    stop: int = 0

    @property
    def rows(self) -> int:
        """Size of the slice along dimension 0."""
        return self.stop - self.start if self.dim == 0 else self.shape[0]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A megatron parameter of one process: each of `parts` is cut into `groups` blocks of rows, interleaved by group.

    `copy`: a second copy of a weight that another stage owns (tied embeddings under pipeline parallelism).
    """

    name: str
    parts: tuple[Slice, ...]
    groups: int = 1
    copy: bool = False


def parameters(
    shape: ModelShape, rank: ModelParallelRank, outputs: int | None, fused_norms: bool = False
) -> list[Parameter]:
    """Return the parameters of the process at `rank`, in order.

    Args:
        shape: The whole model.
        rank: The process.
        outputs: Width of a reward head in place of the LM head, or None.
        fused_norms: For Transformer Engine's linear modules, which own the norm before them.
    """
    names, shapes = shape.family.weights, tensor_shapes(shape, outputs)
    own: list[Parameter] = []
    first, last = rank.stage == 0, rank.stage == rank.stages - 1
    embedding = _cut(f"{names.embedding}.weight", shapes, 0, rank)
    if first:
        own.append(Parameter("embedding.word_embeddings.weight", (embedding,)))
    per_stage = shape.num_hidden_layers // rank.stages
    for local in range(per_stage):
        own += _layer(shape, shapes, rank, local, rank.stage * per_stage + local, fused_norms)
    if last:
        own.append(_whole("decoder.final_layernorm.weight", f"{names.final_norm}.weight", shapes))
        if outputs is not None:
            own.append(_whole("output_layer.weight", SCORE, shapes))
        elif not shape.tie_word_embeddings:
            own.append(Parameter("output_layer.weight", (_cut(f"{names.lm_head}.weight", shapes, 0, rank),)))
        elif not first:
            own.append(Parameter("output_layer.weight", (embedding,), copy=True))
    return own


def _layer(
    shape: ModelShape, shapes: TensorShapes, rank: ModelParallelRank, local: int, number: int, fused_norms: bool
) -> list[Parameter]:
    prefix, names = f"decoder.layers.{local}.", shape.family.weights
    groups = shape.num_key_value_heads // rank.tensors
    norms = (
        ("self_attention.linear_qkv.layer_norm_weight", "mlp.linear_fc1.layer_norm_weight")
        if fused_norms
        else ("input_layernorm.weight", "pre_mlp_layernorm.weight")
    )

    def cut(module: str, dim: int, kind: str = "weight") -> Slice:
        return _cut(f"{module.format(number)}.{kind}", shapes, dim, rank)

    def whole(name: str, module: str) -> Parameter:
        return _whole(prefix + name, f"{module.format(number)}.weight", shapes)

    def qkv(kind: str) -> Parameter:
        parts = tuple(cut(module, 0, kind) for module in (names.query, names.key, names.value))
        return Parameter(f"{prefix}self_attention.linear_qkv.{kind}", parts, groups)

    return [
        whole(norms[0], names.input_norm),
        qkv("weight"),
        *([qkv("bias")] if shape.family.qkv_bias else []),
        Parameter(f"{prefix}self_attention.linear_proj.weight", (cut(names.attention_output, 1),)),
        whole(norms[1], names.mlp_norm),
        Parameter(f"{prefix}mlp.linear_fc1.weight", (cut(names.gate, 0), cut(names.up, 0))),
        Parameter(f"{prefix}mlp.linear_fc2.weight", (cut(names.down, 1),)),
    ]


def _cut(name: str, shapes: TensorShapes, dim: int, rank: ModelParallelRank) -> Slice:
    size = shapes[name][dim] // rank.tensors
    return Slice(name, shapes[name], dim, rank.tensor * size, (rank.tensor + 1) * size)


def _whole(name: str, theirs: str, shapes: TensorShapes) -> Parameter:
    return Parameter(name, (Slice(theirs, shapes[theirs]),))


def fuse(parts: Sequence[torch.Tensor], groups: int) -> torch.Tensor:
    """Interleave the row blocks of the parts: group 0 of each part, group 1 of each, and so on."""
    if len(parts) == 1:
        return parts[0]
    blocks = [part.reshape(groups, -1, *part.shape[1:]) for part in parts]
    return torch.cat(blocks, 1).flatten(0, 1)


def split(tensor: torch.Tensor, parameter: Parameter) -> list[torch.Tensor]:
    """Invert `fuse`: return this process's slice of each Hugging Face tensor, contiguous."""
    if len(parameter.parts) == 1:
        return [tensor]
    sizes = [part.rows // parameter.groups for part in parameter.parts]
    blocks = tensor.view(parameter.groups, -1, *tensor.shape[1:]).split(sizes, 1)
    return [block.reshape(-1, *tensor.shape[1:]) for block in blocks]
