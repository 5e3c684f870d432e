# SPDX-License-Identifier: Apache-2.0
"""The shape of a Llama-architecture model, read from and written to a Hugging Face `config.json`. Torch-free."""

import json
from pathlib import Path
from typing import Any, Self

from pydantic import (
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from steerlm.errors import ModelError, first_problem
from steerlm.settings import Settings


class RopeScaling(Settings):
    """Llama-3.1's rotary scaling (`rope_type: llama3`)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: PositiveInt


class ModelShape(Settings):
    """Sizes in Hugging Face's names. `head_dim` null: hidden_size / num_attention_heads."""

    vocab_size: PositiveInt
    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    num_hidden_layers: PositiveInt
    num_attention_heads: PositiveInt
    num_key_value_heads: PositiveInt
    head_dim: PositiveInt | None = None
    max_position_embeddings: PositiveInt
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = False
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    initializer_range: float = 0.02

    @field_validator("head_dim")
    @classmethod
    def _usual_is_none(cls, value: int | None, info: ValidationInfo) -> int | None:
        """One form for each shape: two that are the same model compare equal."""
        hidden, heads = info.data.get("hidden_size"), info.data.get("num_attention_heads")
        return None if hidden and heads and value == hidden / heads else value

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError("num_attention_heads must be a multiple of num_key_value_heads")
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            raise ValueError("hidden_size must be a multiple of num_attention_heads, or head_dim given")
        return self

    @property
    def head_size(self) -> int:
        return self.head_dim or self.hidden_size // self.num_attention_heads

    def parameters(self, outputs: int | None = None) -> int:
        """Number of parameters; `outputs`: with a reward head of that many outputs in place of the LM head."""
        h, d = self.hidden_size, self.head_size
        attention = h * d * (2 * self.num_attention_heads + 2 * self.num_key_value_heads)
        layer = attention + 3 * h * self.intermediate_size + 2 * h
        head = outputs * h if outputs else (0 if self.tie_word_embeddings else self.vocab_size * h)
        return self.vocab_size * h + self.num_hidden_layers * layer + h + head

    @classmethod
    def from_folder(cls, folder: str | Path) -> Self:
        """Read `config.json`; raises `ModelError` for another architecture or a feature the trainer does not have."""
        path = Path(folder) / "config.json"
        try:
            config: dict[str, Any] = json.loads(path.read_text())
        except FileNotFoundError:
            raise ModelError(f"{path}: no such file; a Hugging Face model folder was expected") from None
        except json.JSONDecodeError as error:
            raise ModelError(f"{path}:{error.lineno}: not JSON ({error.msg})") from None
        if config.get("model_type") != "llama":
            raise ModelError(f"{path}: model_type {config.get('model_type')!r} is not supported; 'llama' is")
        for key in ("attention_bias", "mlp_bias"):
            if config.get(key):
                raise ModelError(f"{path}: {key} is not supported")
        if (activation := config.get("hidden_act", "silu")) not in ("silu", "swish"):
            raise ModelError(f"{path}: hidden_act {activation!r} is not supported; 'silu' is")
        if config.get("quantization_config"):
            raise ModelError(f"{path}: quantised weights cannot be trained; fetch the model they were made from")
        rope = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind not in ("default", "llama3"):
            raise ModelError(f"{path}: rope_type {kind!r} is not supported; 'default' and 'llama3' are")
        known = {k: config[k] for k in cls.model_fields if k in config and k not in ("rope_theta", "rope_scaling")}
        if known.get("num_key_value_heads") is None:  # absent or null: as many as there are query heads
            known["num_key_value_heads"] = config.get("num_attention_heads")
        scaling = {k: rope[k] for k in RopeScaling.model_fields if k in rope} if kind == "llama3" else None
        theta = rope.get("rope_theta", config.get("rope_theta", 10000.0))
        try:
            return cls.model_validate({**known, "rope_theta": theta, "rope_scaling": scaling})
        except ValidationError as error:
            raise ModelError(f"{path}: {first_problem(error)}") from None

    def to_config(self) -> dict[str, Any]:
        """The architecture's keys of a `config.json` (both spellings of the rotary settings, old and new)."""
        rope: dict[str, Any] = {"rope_type": "default", "rope_theta": self.rope_theta}
        if self.rope_scaling:
            rope |= {"rope_type": "llama3", **self.rope_scaling.model_dump()}
        plain = self.model_dump(exclude={"rope_scaling", "head_dim"})
        return {
            "model_type": "llama",
            **plain,
            "head_dim": self.head_size,
            "rope_parameters": rope,
            "rope_scaling": {k: v for k, v in rope.items() if k != "rope_theta"} if self.rope_scaling else None,
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "attention_dropout": 0.0,
        }
