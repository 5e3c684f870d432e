# SPDX-License-Identifier: Apache-2.0
"""Shapes of public models by hub name, so that a layout can be planned before 140 GB are fetched.

They are copied from the models' published `config.json`. Training reads the config of the fetched folder instead.
"""

import difflib

from steerlm.models.shape import ModelShape, RopeScaling

_SCALED = RopeScaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)


def _llama2(hidden: int, intermediate: int, layers: int, heads: int, key_value_heads: int) -> ModelShape:
    return ModelShape(
        vocab_size=32000,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        max_position_embeddings=4096,
    )


def _llama3(hidden: int, intermediate: int, layers: int, heads: int, scaling: RopeScaling | None) -> ModelShape:
    return ModelShape(
        vocab_size=128256,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=8,
        max_position_embeddings=131072 if scaling else 8192,
        rope_theta=500000.0,
        rope_scaling=scaling,
    )


def _qwen2(
    hidden: int,
    intermediate: int,
    layers: int,
    heads: int,
    key_value_heads: int,
    *,
    vocabulary: int = 151936,
    positions: int = 131072,
    tied: bool = False,
) -> ModelShape:
    return ModelShape(
        model_type="qwen2",
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        max_position_embeddings=positions,
        rms_norm_eps=1e-6,
        rope_theta=1e6,
        tie_word_embeddings=tied,
    )


SHAPES = {
    "meta-llama/Llama-2-7b-hf": _llama2(4096, 11008, 32, 32, 32),
    "meta-llama/Llama-2-13b-hf": _llama2(5120, 13824, 40, 40, 40),
    "meta-llama/Llama-2-70b-hf": _llama2(8192, 28672, 80, 64, 8),
    "meta-llama/Meta-Llama-3-8B": _llama3(4096, 14336, 32, 32, None),
    "meta-llama/Meta-Llama-3-70B": _llama3(8192, 28672, 80, 64, None),
    "meta-llama/Llama-3.1-8B-Instruct": _llama3(4096, 14336, 32, 32, _SCALED),
    "meta-llama/Llama-3.1-70B-Instruct": _llama3(8192, 28672, 80, 64, _SCALED),
    "Qwen/Qwen2.5-0.5B": _qwen2(896, 4864, 24, 14, 2, positions=32768, tied=True),
    "Qwen/Qwen2.5-1.5B": _qwen2(1536, 8960, 28, 12, 2, tied=True),
    "Qwen/Qwen2.5-7B": _qwen2(3584, 18944, 28, 28, 4, vocabulary=152064),
    "Qwen/Qwen2.5-72B-Instruct": _qwen2(8192, 29568, 80, 64, 8, vocabulary=152064, positions=32768),
    "mistralai/Mistral-7B-v0.3": ModelShape(
        model_type="mistral",
        vocab_size=32768,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=32768,
        rope_theta=1e6,
    ),
    "HuggingFaceTB/SmolLM2-360M": ModelShape(
        vocab_size=49152,
        hidden_size=960,
        intermediate_size=2560,
        num_hidden_layers=32,
        num_attention_heads=15,
        num_key_value_heads=5,
        max_position_embeddings=8192,
        rope_theta=100000.0,
        tie_word_embeddings=True,
    ),
}


def public_shape(uri: str) -> ModelShape | None:
    """Return the shape of the model `hf://org/name[@revision]`, or None if it is not in the table."""
    return SHAPES.get(uri.removeprefix("hf://").partition("@")[0])


def suggestion(uri: str) -> str:
    """Return `; did you mean 'hf://org/name'?` for a model in the table whose address is similar, else ""."""
    close = difflib.get_close_matches(uri, [f"hf://{name}" for name in SHAPES], n=1, cutoff=0.8)
    return f"; did you mean {close[0]!r}?" if close else ""
