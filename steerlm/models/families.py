# SPDX-License-Identifier: Apache-2.0
"""The model families that can be trained: one table entry each, by the `model_type` of a Hugging Face `config.json`.

An entry says what distinguishes a family from the others: transformers' class names, keys of the config, names of the
weights, biases. Common to all of them: pre-normalization with RMSNorm, rotary positions, grouped-query attention over
the whole context, a gated SiLU feed-forward block. Torch-free.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class WeightNames:
    """Modules that own weights, named as in transformers' state dict; `{}` stands for the number of the layer.

    A module's weight is `MODULE.weight`, its bias `MODULE.bias`.
    """

    embedding: str = "model.embed_tokens"
    input_norm: str = "model.layers.{}.input_layernorm"
    query: str = "model.layers.{}.self_attn.q_proj"
    key: str = "model.layers.{}.self_attn.k_proj"
    value: str = "model.layers.{}.self_attn.v_proj"
    attention_output: str = "model.layers.{}.self_attn.o_proj"
    mlp_norm: str = "model.layers.{}.post_attention_layernorm"
    gate: str = "model.layers.{}.mlp.gate_proj"
    up: str = "model.layers.{}.mlp.up_proj"
    down: str = "model.layers.{}.mlp.down_proj"
    final_norm: str = "model.norm"
    lm_head: str = "lm_head"


@dataclass(frozen=True, slots=True)
class Family:
    """One model family.

    Attributes:
        name: For people, and the first part of transformers' class names.
        unsupported: Given a config, the reason why its model cannot be trained, or None.
        defaults: What transformers takes a key for that a config leaves out, for every key that is read.
        constants: Keys of the family that every config we write has.
        qkv_bias: Whether the query, key and value projections have a bias.
        weights: Names of the weights.
    """

    name: str
    unsupported: Callable[[Mapping[str, Any]], str | None]
    defaults: Mapping[str, Any]
    constants: Mapping[str, Any] = field(default_factory=dict)
    qkv_bias: bool = False
    weights: WeightNames = WeightNames()

    def architecture(self, *, reward: bool) -> str:
        """Return the class that `architectures` of a config names."""
        return f"{self.name}ForSequenceClassification" if reward else f"{self.name}ForCausalLM"


def _llama_unsupported(config: Mapping[str, Any]) -> str | None:
    return next((f"{key} is not supported" for key in ("attention_bias", "mlp_bias") if config.get(key)), None)


def _qwen2_unsupported(config: Mapping[str, Any]) -> str | None:
    if config.get("use_sliding_window"):
        return "use_sliding_window is not supported: attention is over the whole context"
    return None


def _mistral_unsupported(config: Mapping[str, Any]) -> str | None:
    window, positions = config.get("sliding_window"), config.get("max_position_embeddings", 0)
    if window is None or window >= positions:
        return None
    return (
        f"sliding_window {window} is shorter than max_position_embeddings {positions}, and sliding-window attention "
        "is not supported; use a version of the model without it (sliding_window null)"
    )


_DEFAULTS: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,  # as many as there are query heads
    "head_dim": None,  # hidden_size / num_attention_heads
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "rope_theta": 10000.0,
    "initializer_range": 0.02,
    "hidden_act": "silu",
}
"""The defaults of Llama's config in transformers, which the other families share where they name no other."""

FAMILIES: Mapping[str, Family] = {
    "llama": Family(
        "Llama",
        _llama_unsupported,
        defaults=_DEFAULTS | {"attention_bias": False, "mlp_bias": False},
        constants={"attention_bias": False, "mlp_bias": False},
    ),
    "mistral": Family(
        "Mistral",
        _mistral_unsupported,
        defaults=_DEFAULTS
        | {
            "intermediate_size": 14336,
            "num_key_value_heads": 8,
            "max_position_embeddings": 131072,
            "sliding_window": 4096,
        },
        constants={"sliding_window": None},
    ),
    "qwen2": Family(
        "Qwen2",
        _qwen2_unsupported,
        defaults=_DEFAULTS
        | {
            "vocab_size": 151936,
            "intermediate_size": 22016,
            "num_key_value_heads": 32,
            "max_position_embeddings": 32768,
            "use_sliding_window": False,
        },
        constants={"use_sliding_window": False, "sliding_window": None},
        qkv_bias=True,
    ),
}


def unknown_family(model_type: object) -> str | None:
    """Return why a `model_type` is refused, or None if it is in the table."""
    if model_type in FAMILIES:
        return None
    return f"model_type {model_type!r} is not supported; supported are {', '.join(map(repr, FAMILIES))}"
