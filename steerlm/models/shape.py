# SPDX-License-Identifier: Apache-2.0
"""The sizes of a model, read from and written to a Hugging Face `config.json`. Torch-free.

What depends on the model's family is in `families.py`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import (
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from steerlm.errors import ModelError, first_line, first_problem
from steerlm.models.families import FAMILIES, Family, unknown_family
from steerlm.models.nemo import refuse_nemo
from steerlm.models.weights import INDEX, SINGLE, equal_tensors, stored_tensors
from steerlm.settings import Settings


class RopeScaling(Settings):
    """Llama-3.1's rotary scaling (`rope_type: llama3`)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: PositiveInt


class ModelShape(Settings):
    """Family and sizes of a model, in Hugging Face's names. `head_dim` null: hidden_size / num_attention_heads."""

    model_type: str = "llama"
    """The family: a key of `families.FAMILIES`."""
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

    @field_validator("model_type")
    @classmethod
    def _known_family(cls, value: str) -> str:
        if reason := unknown_family(value):
            raise ValueError(reason)
        return value

    @field_validator("head_dim")
    @classmethod
    def _default_is_none(cls, value: int | None, info: ValidationInfo) -> int | None:
        """Store the default as None, so that two spellings of one shape compare equal."""
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
    def family(self) -> Family:
        """What depends on the architecture, by `model_type`."""
        return FAMILIES[self.model_type]

    @property
    def head_size(self) -> int:
        """Width of an attention head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def qkv_biases(self) -> int:
        """Number of bias parameters of a layer's attention."""
        return (self.num_attention_heads + 2 * self.num_key_value_heads) * self.head_size * self.family.qkv_bias

    def parameters(self, outputs: int | None = None) -> int:
        """Return the number of parameters; `outputs`: width of a reward head in place of the LM head."""
        h, d = self.hidden_size, self.head_size
        attention = h * d * (2 * self.num_attention_heads + 2 * self.num_key_value_heads)
        layer = attention + self.qkv_biases + 3 * h * self.intermediate_size + 2 * h
        head = outputs * h if outputs else (0 if self.tie_word_embeddings else self.vocab_size * h)
        return self.vocab_size * h + self.num_hidden_layers * layer + h + head

    @classmethod
    def from_folder(cls, folder: str | Path) -> Self:
        """Read the shape of a model folder: `config.json`, and whether an LM head is really tied.

        A config may say tied where the weights hold a head of its own; transformers then keeps that head.

        Raises:
            ModelError: The family is not in the table, the model has a feature that cannot be trained, or its weights
                cannot be read.
        """
        folder = Path(folder)
        refuse_nemo(folder)
        shape = cls.from_config(folder / "config.json")
        if shape.tie_word_embeddings and any((folder / name).is_file() for name in (SINGLE, INDEX)):
            tensors, names = stored_tensors(folder), shape.family.weights
            head, embedding = tensors.get(f"{names.lm_head}.weight"), tensors.get(f"{names.embedding}.weight")
            if head and embedding and not equal_tensors(head, embedding):
                return shape.model_copy(update={"tie_word_embeddings": False})
        return shape

    @classmethod
    def from_config(cls, path: Path) -> Self:
        """Read a `config.json`; a key that it leaves out is what transformers takes it for.

        Raises:
            ModelError: The family is not in the table, or the model has a feature that cannot be trained.
        """
        try:
            config: Any = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ModelError(f"{path}: no such file; a Hugging Face model folder was expected") from None
        except json.JSONDecodeError as error:
            raise ModelError(f"{path}:{error.lineno}: not JSON ({error.msg})") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"{path}: cannot be read ({first_line(error)})") from None
        if not isinstance(config, dict):
            raise ModelError(f"{path}: not a model's config: a JSON object was expected")
        if reason := unknown_family(config.get("model_type")):
            raise ModelError(f"{path}: {reason}")
        family = FAMILIES[config["model_type"]]
        config = {**family.defaults, **config}
        if reason := family.unsupported(config) or _unsupported(config):
            raise ModelError(f"{path}: {reason}")
        known = {k: config[k] for k in cls.model_fields if k not in ("rope_theta", "rope_scaling")}
        if known["num_key_value_heads"] is None:
            known["num_key_value_heads"] = config["num_attention_heads"]
        rope = _rope(config)
        scaling = None
        if _rope_type(rope) == "llama3":
            scaling = {"original_max_position_embeddings": config["max_position_embeddings"]}
            scaling |= {k: rope[k] for k in RopeScaling.model_fields if k in rope}
        theta = rope.get("rope_theta", config["rope_theta"])
        try:
            return cls.model_validate({**known, "rope_theta": theta, "rope_scaling": scaling})
        except ValidationError as error:
            raise ModelError(f"{path}: {first_problem(error)}") from None

    def to_config(self, *, reward: bool = False) -> dict[str, Any]:
        """Return the architecture's keys of a `config.json`; the rotary settings in both spellings, old and new.

        `reward`: of a model with a reward head, which shares no weight with the embeddings.
        """
        rope: dict[str, Any] = {"rope_type": "default", "rope_theta": self.rope_theta}
        if self.rope_scaling:
            rope |= {"rope_type": "llama3", **self.rope_scaling.model_dump()}
        plain = self.model_dump(exclude={"rope_scaling", "head_dim"})
        config = {
            "architectures": [self.family.architecture(reward=reward)],
            **plain,
            "head_dim": self.head_size,
            "rope_parameters": rope,
            "rope_scaling": {k: v for k, v in rope.items() if k != "rope_theta"} if self.rope_scaling else None,
            "hidden_act": "silu",
            **self.family.constants,
            "attention_dropout": 0.0,
        }
        return config | {"tie_word_embeddings": False} if reward else config


def _unsupported(config: Mapping[str, Any]) -> str | None:
    """Return the first feature of a config that no family is trained with, or None."""
    if (activation := config.get("hidden_act", "silu")) not in ("silu", "swish"):
        return f"hidden_act {activation!r} is not supported; 'silu' is"
    if config.get("quantization_config"):
        return "quantized weights cannot be trained; fetch the model they were made from"
    for kind in config.get("layer_types") or ():
        if kind != "full_attention":
            return f"layer_types {kind!r} is not supported; 'full_attention' is"
    rope = _rope(config)
    if any(isinstance(value, Mapping) for value in rope.values()):
        return "rotary settings by type of layer are not supported"
    if (kind := _rope_type(rope)) not in ("default", "llama3"):
        return f"rope_type {kind!r} is not supported; 'default' and 'llama3' are"
    if (share := rope.get("partial_rotary_factor", config.get("partial_rotary_factor"))) not in (None, 1):
        return f"partial_rotary_factor {share} is not supported; 1 is"
    if (file := config.get("transformers_weights")) is not None:
        return f"transformers_weights {file!r} is not supported: engines would read different weights"
    return None


def _rope(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the rotary settings, under the key of older versions of transformers first, as version 5 reads them."""
    rope: Mapping[str, Any] = config.get("rope_scaling") or config.get("rope_parameters") or {}
    return rope


def _rope_type(rope: Mapping[str, Any]) -> str:
    kind: str = rope.get("rope_type", rope.get("type", "default"))
    return kind
