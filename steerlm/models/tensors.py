# SPDX-License-Identifier: Apache-2.0
"""The tensors of a model in Hugging Face's format: names and shapes, and where a folder has them. Torch-free."""

from pathlib import Path

from steerlm.models.shape import ModelShape
from steerlm.models.weights import StoredTensor, stored_tensors

SCORE = "score.weight"
"""The reward head, named alike by transformers in every family."""

TensorShapes = dict[str, tuple[int, ...]]


def tensor_shapes(shape: ModelShape, outputs: int | None) -> TensorShapes:
    """Return the shape of every tensor of a model; `outputs`: width of a reward head in place of the LM head."""
    names, hidden, vocabulary = shape.family.weights, shape.hidden_size, shape.vocab_size
    tensors: TensorShapes = {f"{names.embedding}.weight": (vocabulary, hidden)}
    for number in range(shape.num_hidden_layers):
        tensors |= {module.format(number): size for module, size in _layer(shape).items()}
    tensors[f"{names.final_norm}.weight"] = (hidden,)
    if outputs is not None:
        tensors[SCORE] = (outputs, hidden)
    elif not shape.tie_word_embeddings:
        tensors[f"{names.lm_head}.weight"] = (vocabulary, hidden)
    return tensors


def _layer(shape: ModelShape) -> TensorShapes:
    """Return the tensors of a layer, with `{}` for its number."""
    names, hidden, inner = shape.family.weights, shape.hidden_size, shape.intermediate_size
    queries, keys = shape.num_attention_heads * shape.head_size, shape.num_key_value_heads * shape.head_size
    projections = ((names.query, queries), (names.key, keys), (names.value, keys))
    return {
        f"{names.input_norm}.weight": (hidden,),
        **{f"{module}.weight": (rows, hidden) for module, rows in projections},
        **({f"{module}.bias": (rows,) for module, rows in projections} if shape.family.qkv_bias else {}),
        f"{names.attention_output}.weight": (hidden, queries),
        f"{names.mlp_norm}.weight": (hidden,),
        f"{names.gate}.weight": (inner, hidden),
        f"{names.up}.weight": (inner, hidden),
        f"{names.down}.weight": (hidden, inner),
    }


def model_tensors(folder: Path, shape: ModelShape) -> dict[str, StoredTensor]:
    """Return the tensors of a folder by their names in a model of this shape.

    Where embedding and LM head are tied, either name stands for both, as transformers reads it.

    Raises:
        ModelError: The folder's weights cannot be read, see `stored_tensors`.
    """
    tensors, names = stored_tensors(folder), shape.family.weights
    head, embedding = f"{names.lm_head}.weight", f"{names.embedding}.weight"
    if shape.tie_word_embeddings and embedding not in tensors and head in tensors:
        tensors[embedding] = tensors.pop(head)
    return tensors
