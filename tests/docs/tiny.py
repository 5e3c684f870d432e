"""A random model of some thousand weights over bytes, in a Hugging Face folder; the layouts of the docs divide it."""

from pathlib import Path

from steerlm.models.folder import ModelInfo, finish_folder, load_tokenizer
from steerlm.models.shape import LlamaShape
from tests.byte_tokenizer import byte_tokenizer


def tiny_base(folder: Path, positions: int = 4096) -> Path:
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    byte_tokenizer().save_pretrained(folder / "tokenizer")
    shape = LlamaShape(
        vocab_size=-(-len(load_tokenizer(folder / "tokenizer")) // 8) * 8,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=positions,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**{k: v for k, v in shape.to_config().items() if k != "model_type"}))
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    info = ModelInfo(kind="base", license="apache-2.0")
    finish_folder(folder, shape=shape, tokenizer_from=folder / "tokenizer", info=info, dtype="float32")
    return folder
