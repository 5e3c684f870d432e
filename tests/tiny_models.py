# SPDX-License-Identifier: Apache-2.0
"""Models of some thousand random weights, for tests that train them or put them behind a command."""

from pathlib import Path
from typing import Any

from steerlm.models.folder import ModelInfo, finish_folder, load_tokenizer
from steerlm.models.shape import ModelShape
from tests.byte_tokenizer import byte_tokenizer

SHAPE: dict[str, Any] = {
    "vocab_size": 260,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
"""Room for the tokens of `byte_tokenizer`, and sizes that two ranks divide."""


def tiny_base(folder: Path, **sizes: int) -> Path:
    """A model over bytes in a Hugging Face folder. By default the layouts of the docs divide it and their windows fit;
    `sizes` are others of its shape.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    byte_tokenizer().save_pretrained(folder / "tokenizer")
    vocabulary = -(-len(load_tokenizer(folder / "tokenizer")) // 8) * 8
    usual = {"vocab_size": vocabulary, "num_key_value_heads": 4, "max_position_embeddings": 4096}
    shape = ModelShape(**SHAPE | usual | sizes)
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**{k: v for k, v in shape.to_config().items() if k != "model_type"}))
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    info = ModelInfo(kind="base", license="apache-2.0")
    finish_folder(folder, shape=shape, tokenizer_from=folder / "tokenizer", info=info, dtype="float32")
    return folder
