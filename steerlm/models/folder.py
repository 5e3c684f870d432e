"""A model folder in Hugging Face's format, plus `steerlm.json`: the kind of model, its attributes, where it came from.

Knows files and configs, not weights: the trainer has put the shards there before. `steerlm.json` is written last; a
folder made here is complete when it has one.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

from pydantic import ValidationError

from steerlm.attributes import AttributeSchema
from steerlm.errors import ModelError
from steerlm.models.card import model_card
from steerlm.models.chat_template import chat_template
from steerlm.models.shape import LlamaShape
from steerlm.models.tokenizer import copy_tokenizer, load_tokenizer
from steerlm.prompt import LABEL_MARK, PROMPT_VERSION
from steerlm.records import atomic_writer, write_json

__all__ = ["Kind", "ModelInfo", "finish_folder", "load_tokenizer", "read_info"]

INFO, FORMAT = "steerlm.json", 1
Kind = Literal["base", "reward", "policy"]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What `steerlm.json` says. `window`: longest text trained on, in tokens; `base`: the model it began from."""

    kind: Kind
    attributes: AttributeSchema | None = None
    prompt_version: int = PROMPT_VERSION
    window: int | None = None
    base: str | None = None
    license: str | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)


def read_info(folder: str | Path) -> ModelInfo:
    """What a folder says of itself; one without `steerlm.json` is a base model. Raises `ModelError`."""
    path = Path(folder) / INFO
    if not path.parent.is_dir():
        raise ModelError(f"{folder}: no such model folder")
    if not path.exists():
        return ModelInfo(kind="base")
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if raw.pop("format") != FORMAT or raw["kind"] not in get_args(Kind):
            raise ModelError(f"{path}: format or kind is not one this version of steerlm knows; update steerlm")
        attributes = raw.pop("attributes", None)
        return ModelInfo(attributes=AttributeSchema.model_validate(attributes) if attributes else None, **raw)
    except (json.JSONDecodeError, ValidationError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: not a valid description of a model ({str(error).splitlines()[0]})") from None


def finish_folder(folder: Path, *, shape: LlamaShape, tokenizer_from: Path, info: ModelInfo, dtype: str) -> None:
    """Write everything of a model folder but the weights: config, tokenizer, chat template, card, `steerlm.json`.

    `dtype`: of the weights, in torch's name (`bfloat16`, `float32`). Raises `ModelError` if a reward model has no
    attributes or the tokenizer does not fit the vocabulary.
    """
    copy_tokenizer(tokenizer_from, folder)
    tokenizer = load_tokenizer(folder)
    if len(tokenizer) > shape.vocab_size:
        raise ModelError(
            f"{tokenizer_from}: its tokenizer has {len(tokenizer)} tokens, the model's vocabulary {shape.vocab_size}"
        )
    write_json(folder / "config.json", _config(shape, info, tokenizer, dtype))
    special = {f"{k}_token_id": getattr(tokenizer, f"{k}_token_id") for k in ("bos", "eos", "pad")}
    if info.kind != "reward":
        write_json(folder / "generation_config.json", {k: v for k, v in special.items() if v is not None})
    if info.kind == "policy":
        _own_template(folder, info.attributes)
    with atomic_writer(folder / "README.md") as file:
        file.write(model_card(info, shape, dtype))
    attributes = info.attributes.model_dump(mode="json") if info.attributes else None
    plain = {k: v for k, v in asdict(info).items() if k != "attributes"}
    write_json(folder / INFO, {"format": FORMAT, **plain, "attributes": attributes})


def _config(shape: LlamaShape, info: ModelInfo, tokenizer: Any, dtype: str) -> dict[str, Any]:
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        **shape.to_config(),
        "dtype": dtype,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "use_cache": True,
    }
    if info.kind != "reward":
        return config
    if info.attributes is None:
        raise ModelError("a reward model needs its attributes")
    names = info.attributes.names
    return config | {
        "architectures": ["LlamaForSequenceClassification"],
        "problem_type": "regression",  # engines apply a softmax to scores without it
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
        "pad_token_id": _pad_id(tokenizer),
        "tie_word_embeddings": False,
    }


def _pad_id(tokenizer: Any) -> int:
    """An id no text ends with: readers pool at the last token that is not pad, and every text ends in the mark."""
    last = tokenizer(LABEL_MARK, add_special_tokens=False)["input_ids"][-1]
    for name in ("pad", "unk", "bos", "eos"):
        found = getattr(tokenizer, f"{name}_token_id")
        if found is not None and found != last:
            return cast(int, found)
    return 0 if last else 1


def _own_template(folder: Path, schema: AttributeSchema | None) -> None:
    with atomic_writer(folder / "chat_template.jinja") as file:
        file.write(chat_template(schema))
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    if settings.pop("chat_template", None) is not None:  # an inherited one would compete with ours
        write_json(path, settings)
