# SPDX-License-Identifier: Apache-2.0
"""Shapes of public Llama-architecture models by hub name, so that a layout can be planned before 140 GB are fetched.

From the models' published `config.json`; what is trained is always read from the fetched folder itself.
"""

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


SHAPES = {
    "meta-llama/Llama-2-7b-hf": _llama2(4096, 11008, 32, 32, 32),
    "meta-llama/Llama-2-13b-hf": _llama2(5120, 13824, 40, 40, 40),
    "meta-llama/Llama-2-70b-hf": _llama2(8192, 28672, 80, 64, 8),
    "meta-llama/Meta-Llama-3-8B": _llama3(4096, 14336, 32, 32, None),
    "meta-llama/Meta-Llama-3-70B": _llama3(8192, 28672, 80, 64, None),
    "meta-llama/Llama-3.1-8B-Instruct": _llama3(4096, 14336, 32, 32, _SCALED),
    "meta-llama/Llama-3.1-70B-Instruct": _llama3(8192, 28672, 80, 64, _SCALED),
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
    """The shape behind `hf://org/name[@revision]`, if it is one of these."""
    return SHAPES.get(uri.removeprefix("hf://").partition("@")[0])
