# SPDX-License-Identifier: Apache-2.0
"""The chat templates of model folders: the training texts in Jinja, with the model's attribute schema baked in.

Stock servers (vLLM, transformers) render a policy's template with `chat_template_kwargs={"attributes": {...}}`, or with
a `label` or dials by their names, each a variable of the template (vLLM hands over only those that it mentions). A
policy without attributes has the same template with no names: it accepts no attribute and writes no label line. The
template of a reward model ends in the read-out mark, so that engines which pool over messages score the training text.
"""

import json
import keyword
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from steerlm.attributes import AttributeSchema
from steerlm.prompt import SYSTEM_PROMPT

_RESERVED = (
    "add_generation_prompt and attributes audio_sentinel block bos_token call caller check chosen "
    "continue_final_message cycler defaults dials dict do documents elif else eos_token false fill filter for "
    "given high if images import in include is joiner kwargs label lipsum loop low macro message messages "
    "model_identity name names namespace none not open or own pad_token pair part place raise_exception range "
    "reasoning_effort rewrite role seen self sep_token set strftime_now system take text tools trans true turns "
    "unk_token value varargs where with write"
)
TEMPLATE_NAMES = frozenset(_RESERVED.split())
"""Names that have a meaning in a template: an attribute with such a name is set in `attributes` or `label` only."""


def chat_template(schema: AttributeSchema | None) -> str:
    """Return the Jinja source for policies trained on `schema` (None: without labels)."""
    names = list(schema.active) if schema else []
    source = _fill(
        "chat_template.jinja",
        names=names,
        low=schema.low if schema else 0,
        high=schema.high if schema else 0,
        defaults={name: schema.default(name) for name in names} if schema else {},
        system=SYSTEM_PROMPT,
    )
    return source.replace("@@variables@@", _variables(names))


def readout_template() -> str:
    """Return the Jinja source for reward models."""
    return _fill("chat_template.readout.jinja", system=SYSTEM_PROMPT)


def _variables(names: Sequence[str]) -> str:
    """Return Jinja's list of (name, value or none) of those attributes that a caller can set as variables."""
    usable = [n for n in names if n.isidentifier() and n not in TEMPLATE_NAMES and not keyword.iskeyword(n)]
    return "[" + ", ".join(f"({json.dumps(name)}, {name} | default(none))" for name in usable) + "]"


def _fill(name: str, **values: Any) -> str:
    source = files("steerlm.models").joinpath(name).read_text(encoding="utf-8")
    for key, value in values.items():
        source = source.replace(f"@@{key}@@", json.dumps(value))
    return source
