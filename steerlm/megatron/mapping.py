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

SCORE = "score.weight"
"""The reward head, named alike by transformers in every family."""


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
    names, hidden = shape.family.weights, shape.hidden_size
    own: list[Parameter] = []
    first, last = rank.stage == 0, rank.stage == rank.stages - 1
    embedding = _cut(f"{names.embedding}.weight", (shape.vocab_size, hidden), 0, rank)
    if first:
        own.append(Parameter("embedding.word_embeddings.weight", (embedding,)))
    per_stage = shape.num_hidden_layers // rank.stages
    for local in range(per_stage):
        own += _layer(shape, rank, local, rank.stage * per_stage + local, fused_norms)
    if last:
        own.append(_whole("decoder.final_layernorm.weight", f"{names.final_norm}.weight", (hidden,)))
        if outputs is not None:
            own.append(_whole("output_layer.weight", SCORE, (outputs, hidden)))
        elif not shape.tie_word_embeddings:
            head = _cut(f"{names.lm_head}.weight", (shape.vocab_size, hidden), 0, rank)
            own.append(Parameter("output_layer.weight", (head,)))
        elif not first:
            own.append(Parameter("output_layer.weight", (embedding,), copy=True))
    return own


def _layer(shape: ModelShape, rank: ModelParallelRank, local: int, number: int, fused_norms: bool) -> list[Parameter]:
    prefix, names = f"decoder.layers.{local}.", shape.family.weights
    hidden, head, inner = shape.hidden_size, shape.head_size, shape.intermediate_size
    queries, keys = shape.num_attention_heads * head, shape.num_key_value_heads * head
    groups = shape.num_key_value_heads // rank.tensors
    norms = (
        ("self_attention.linear_qkv.layer_norm_weight", "mlp.linear_fc1.layer_norm_weight")
        if fused_norms
        else ("input_layernorm.weight", "pre_mlp_layernorm.weight")
    )

    def theirs(module: str, kind: str = "weight") -> str:
        return f"{module.format(number)}.{kind}"

    def qkv(kind: str, columns: tuple[int, ...]) -> Parameter:
        modules = ((names.query, queries), (names.key, keys), (names.value, keys))
        parts = tuple(_cut(theirs(module, kind), (rows, *columns), 0, rank) for module, rows in modules)
        return Parameter(f"{prefix}self_attention.linear_qkv.{kind}", parts, groups)

    return [
        _whole(prefix + norms[0], theirs(names.input_norm), (hidden,)),
        qkv("weight", (hidden,)),
        *([qkv("bias", ())] if shape.family.qkv_bias else []),
        Parameter(
            f"{prefix}self_attention.linear_proj.weight",
            (_cut(theirs(names.attention_output), (hidden, queries), 1, rank),),
        ),
        _whole(prefix + norms[1], theirs(names.mlp_norm), (hidden,)),
        Parameter(
            f"{prefix}mlp.linear_fc1.weight",
            tuple(_cut(theirs(module), (inner, hidden), 0, rank) for module in (names.gate, names.up)),
        ),
        Parameter(f"{prefix}mlp.linear_fc2.weight", (_cut(theirs(names.down), (hidden, inner), 1, rank),)),
    ]


def _cut(name: str, shape: tuple[int, ...], dim: int, rank: ModelParallelRank) -> Slice:
    size = shape[dim] // rank.tensors
    return Slice(name, shape, dim, rank.tensor * size, (rank.tensor + 1) * size)


def _whole(name: str, theirs: str, shape: tuple[int, ...]) -> Parameter:
    return Parameter(name, (Slice(theirs, shape),))


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
