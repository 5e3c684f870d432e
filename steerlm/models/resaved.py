# SPDX-License-Identifier: Apache-2.0
"""Folders that plain transformers has written again (a cast, a merge, further tuning): they have lost `steerlm.json`.

What survives is `config.json` with its unknown keys, and the chat template. So a policy's and a reward model's config
name the kind, and the template begins with a comment that holds kind, attributes and window. A folder whose parts do
not tell the same is refused: as a base model it would be served without its dials, and nobody would notice.
"""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from steerlm.attributes import AttributeSchema
from steerlm.errors import ModelError, first_problem
from steerlm.models.info import ModelInfo
from steerlm.prompt import LABEL_MARK, TURN_MARK

KEY = "steerlm_kind"
"""Key of `config.json`: `reward` or `policy`."""
NOTE = re.compile(r"^\{#- steerlm (\{.*\}) -#\}$", re.MULTILINE)
KEPT = ("kind", "prompt_version", "window", "base", "license")
REMEDY = "copy steerlm.json from the folder that it was made from, if its outputs and its texts are the same"


def with_note(template: str, info: ModelInfo) -> str:
    """Return a chat template that begins with a comment from which `recover` reads the model's description."""
    attributes = info.attributes.model_dump(mode="json") if info.attributes else None
    content = {key: value for key, value in asdict(info).items() if key in KEPT} | {"attributes": attributes}
    return f"{{#- steerlm {json.dumps(content)} -#}}\n{template}"


def recover(folder: Path) -> ModelInfo | None:
    """Return the description of a model folder without `steerlm.json`, or None if it is not of SteerLM.

    Raises:
        ModelError: It is a reward model or a policy, and its attributes cannot be known.
    """
    config = _json(folder / "config.json")
    names = config.get("architectures")
    scores = bool(names) and isinstance(names, list) and str(names[0]).endswith("ForSequenceClassification")
    template = _template(folder)
    note, ours = NOTE.search(template), TURN_MARK in template and LABEL_MARK in template
    if note is None and KEY not in config and not scores and not ours:
        return None
    what = f"{folder}: has no steerlm.json, and "
    if note is None:
        kind = config.get(KEY) or ("reward" if scores else "policy")
        raise ModelError(f"{what}its chat template does not tell the attributes of this {kind} model; {REMEDY}")
    info = _info(note[1], what)
    if (info.kind == "reward") != scores or config.get(KEY, info.kind) != info.kind:
        raise ModelError(f"{what}its chat template is of a {info.kind} model, its config.json is not; {REMEDY}")
    labels = list((config.get("id2label") or {}).values())
    if info.kind == "reward" and (info.attributes is None or labels != list(info.attributes.names)):
        raise ModelError(f"{what}id2label of its config.json names other outputs than its chat template; {REMEDY}")
    return info


def _info(note: str, what: str) -> ModelInfo:
    try:
        content: dict[str, Any] = json.loads(note)
        attributes = content.pop("attributes")
        return ModelInfo(attributes=AttributeSchema.model_validate(attributes) if attributes else None, **content)
    except ValidationError as error:
        raise ModelError(f"{what}its chat template's comment is not valid ({first_problem(error)})") from None
    except (ValueError, KeyError, TypeError):
        raise ModelError(f"{what}its chat template's comment is not one this version knows; update steerlm") from None


def _template(folder: Path) -> str:
    """Return the chat template: a file of its own, or in `tokenizer_config.json` as older versions wrote it."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = _json(folder / "tokenizer_config.json").get("chat_template")
    return template if isinstance(template, str) else ""


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # absent, or broken: whoever needs it says so
        return {}
    return content if isinstance(content, dict) else {}
