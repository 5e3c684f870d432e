"""The chat template of a model folder: the training text in Jinja, with the model's attribute schema baked in.

Stock servers (vLLM, transformers) render it with `chat_template_kwargs={"attributes": {...}}`. A model without
attributes gets the same template with no names: it then accepts no dial and writes no label line.
"""

import json
from importlib.resources import files

from steerlm.attributes import AttributeSchema
from steerlm.prompt import SYSTEM_PROMPT


def chat_template(schema: AttributeSchema | None) -> str:
    """The Jinja source for models trained on `schema` (None: without labels)."""
    names = list(schema.active) if schema else []
    filled = {
        "names": names,
        "values": list(range(schema.low, schema.high + 1)) if schema else [],
        "defaults": {n: schema.default(n) for n in names} if schema else {},
        "system": SYSTEM_PROMPT,
    }
    source = files("steerlm.models").joinpath("chat_template.jinja").read_text(encoding="utf-8")
    for key, value in filled.items():
        source = source.replace(f"@@{key}@@", json.dumps(value))
    return source
