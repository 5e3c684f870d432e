# SPDX-License-Identifier: Apache-2.0
"""The chat templates of model folders: the training texts in Jinja, with the model's attribute schema baked in.

Stock servers (vLLM, transformers) render a policy's template with `chat_template_kwargs={"attributes": {...}}`. A
policy without attributes has the same template with no names: it accepts no attribute and writes no label line. The
template of a reward model ends in the read-out mark, so that engines which pool over messages score the training text.
"""

import json
from importlib.resources import files
from typing import Any

from steerlm.attributes import AttributeSchema
from steerlm.prompt import SYSTEM_PROMPT


def chat_template(schema: AttributeSchema | None) -> str:
    """Return the Jinja source for policies trained on `schema` (None: without labels)."""
    names = list(schema.active) if schema else []
    return _fill(
        "chat_template.jinja",
        names=names,
        low=schema.low if schema else 0,
        high=schema.high if schema else 0,
        defaults={name: schema.default(name) for name in names} if schema else {},
        system=SYSTEM_PROMPT,
    )


def readout_template() -> str:
    """Return the Jinja source for reward models."""
    return _fill("chat_template.readout.jinja", system=SYSTEM_PROMPT)


def _fill(name: str, **values: Any) -> str:
    source = files("steerlm.models").joinpath(name).read_text(encoding="utf-8")
    for key, value in values.items():
        source = source.replace(f"@@{key}@@", json.dumps(value))
    return source
