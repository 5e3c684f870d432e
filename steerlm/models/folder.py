# SPDX-License-Identifier: Apache-2.0
"""A model folder in Hugging Face's format, plus `steerlm.json`: the kind of model, its attributes, its origin.

This file writes configs, not weights, which the trainer writes before. `steerlm.json` is removed first and written
last: a folder made here is complete if it has one.
"""

import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from steerlm.attributes import AttributeSchema
from steerlm.errors import ModelError, first_line, first_problem
from steerlm.files import atomic_writer, write_json
from steerlm.models.card import model_card
from steerlm.models.chat_template import chat_template, readout_template
from steerlm.models.info import Kind, ModelInfo
from steerlm.models.nemo import refuse_nemo
from steerlm.models.resaved import KEY, recover, with_note
from steerlm.models.shape import ModelShape
from steerlm.models.tokenizer import CONFIG, check_vocabulary, copy_tokenizer, load_tokenizer, pad_id, turn_stop_id

__all__ = ["Kind", "ModelInfo", "finish_folder", "load_tokenizer", "read_info"]

INFO, FORMAT = "steerlm.json", 1
FETCHED = "fetched.json"
"""Written last by `steerlm model fetch`: the source of a folder, and its files."""
TERMS = ("LICENSE*", "NOTICE*", "USE_POLICY*")
"""Files that the license of a base model requires to be passed on with derived models."""
NO_FOLDER = "no such model folder"


def read_info(folder: str | Path) -> ModelInfo:
    """Read `steerlm.json` of a folder; one without it is described by `resaved.recover`, or is a base model.

    Raises:
        ModelError: The folder is missing or not a model's, or its kind or attributes cannot be known.
    """
    path = Path(folder) / INFO
    refuse_nemo(folder)
    if not path.parent.is_dir():
        raise ModelError(f"{folder}: {'is a file, a model folder was expected' if path.parent.exists() else NO_FOLDER}")
    if not path.exists():
        return recover(path.parent) or _foreign(path.parent)
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if raw.pop("format") != FORMAT or raw["kind"] not in get_args(Kind):
            raise ModelError(f"{path}: format or kind is not one this version of steerlm knows; update steerlm")
        attributes = raw.pop("attributes", None)
        return ModelInfo(attributes=AttributeSchema.model_validate(attributes) if attributes else None, **raw)
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # ValueError: not UTF-8, not JSON, not valid
        raise ModelError(f"{path}: not a valid description of a model ({_reason(error)})") from None


def finish_folder(folder: Path, *, shape: ModelShape, tokenizer_from: Path, info: ModelInfo, dtype: str) -> None:
    """Write all files of a model folder but the weights: config, tokenizer, chat template, card, `steerlm.json`.

    Args:
        folder: Folder with the weights.
        shape: Of the model.
        tokenizer_from: Folder or file to copy the tokenizer from.
        info: Content of `steerlm.json`.
        dtype: Of the weights, in torch's name (`bfloat16`, `float32`).

    Raises:
        ModelError: There are no weights, a reward model has no attributes, or the vocabulary is too small.
    """
    (folder / INFO).unlink(missing_ok=True)
    if not any(folder.glob("*.safetensors")):
        raise ModelError(f"{folder}: no safetensors; the weights must be written first")
    if info.kind == "reward" and info.attributes is None:
        raise ModelError(f"{folder}: a reward model needs its attributes")
    copy_tokenizer(tokenizer_from, folder, plain=info.kind != "base", left=info.kind == "policy")
    tokenizer = load_tokenizer(folder)
    check_vocabulary(tokenizer, shape.vocab_size, tokenizer_from)
    write_json(folder / "config.json", _config(shape, info, tokenizer, dtype))
    if info.kind == "reward":
        (folder / "generation_config.json").unlink(missing_ok=True)
        _own_template(folder, with_note(readout_template(), info))
    else:
        write_json(folder / "generation_config.json", _generation_config(tokenizer, info))
    if info.kind == "policy":
        _own_template(folder, with_note(chat_template(info.attributes), info))
    if tokenizer_from.is_dir() and tokenizer_from.resolve() != folder.resolve():
        for pattern in TERMS:
            for terms in tokenizer_from.glob(pattern):
                shutil.copyfile(terms, folder / terms.name)
    with atomic_writer(folder / "README.md") as file:
        file.write(model_card(info, shape, dtype))
    attributes = info.attributes.model_dump(mode="json") if info.attributes else None
    plain = {k: v for k, v in asdict(info).items() if k != "attributes"}
    write_json(folder / INFO, {"format": FORMAT, **plain, "attributes": attributes})


def _foreign(folder: Path) -> ModelInfo:
    """Describe a model made elsewhere: its hub name if it was fetched there, the license from its card."""
    base = None
    if (folder / FETCHED).is_file():
        fetched: dict[str, Any] = json.loads((folder / FETCHED).read_text(encoding="utf-8"))
        if fetched["uri"].startswith("hf://"):
            base = f"{fetched['uri'].removeprefix('hf://').partition('@')[0]}@{fetched['revision']}"
    card = folder / "README.md"
    head = re.match(r"---\n(.*?)\n---\n", card.read_text(encoding="utf-8"), re.DOTALL) if card.is_file() else None
    try:
        front = yaml.safe_load(head[1]) if head else {}
    except yaml.YAMLError:
        front = {}
    card_data = front if isinstance(front, dict) else {}
    license = card_data.get("license_name") if card_data.get("license") == "other" else card_data.get("license")
    return ModelInfo(kind="base", base=base, license=str(license) if license else None)


def _config(shape: ModelShape, info: ModelInfo, tokenizer: Any, dtype: str) -> dict[str, Any]:
    config: dict[str, Any] = {
        **shape.to_config(reward=info.kind == "reward"),
        "dtype": dtype,
        "torch_dtype": dtype,  # the name before transformers 4.56
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "use_cache": True,
    }
    if info.kind != "base":
        config[KEY] = info.kind
    if info.kind != "reward" or info.attributes is None:
        return config
    names = info.attributes.names
    return config | {
        "problem_type": "regression",  # engines apply a softmax to scores without it
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
        "pad_token_id": pad_id(tokenizer),
    }


def _generation_config(tokenizer: Any, info: ModelInfo) -> dict[str, Any]:
    """Return the special ids; a policy also stops at the next turn's mark, where that is one token.

    Otherwise callers name it: transformers fails on `stop_strings` here unless `generate` is given the tokenizer, and
    vLLM ignores them.
    """
    special = {f"{k}_token_id": getattr(tokenizer, f"{k}_token_id") for k in ("bos", "eos", "pad")}
    stop = turn_stop_id(tokenizer) if info.kind == "policy" else None
    if stop is not None and stop != special["eos_token_id"]:
        special["eos_token_id"] = [i for i in (special["eos_token_id"], stop) if i is not None]
    return {k: v for k, v in special.items() if v is not None}


def _own_template(folder: Path, template: str) -> None:
    with atomic_writer(folder / "chat_template.jinja") as file:
        file.write(template)
    path = folder / CONFIG
    settings = json.loads(path.read_text(encoding="utf-8"))
    if settings.pop("chat_template", None) is not None:  # an inherited one would compete with ours
        write_json(path, settings)


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return first_problem(error) if isinstance(error, ValidationError) else first_line(error)
