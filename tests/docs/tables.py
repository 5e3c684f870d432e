# SPDX-License-Identifier: Apache-2.0
"""The keys of recipes and profiles as rows of tables, from the pydantic models; and the tables of a document.

A document gives each key a meaning in words of its own; what can be derived (key, value, default) must be as here.
"""

import json
from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

SEPARATOR = " or "
Row = tuple[str, str]


def rows(model: type[BaseModel], without: type[BaseModel] | None = None) -> list[Row]:
    """(key, what it takes with its default in bold) of every key of a model, in order; not those of `without`."""
    schema = model.model_json_schema()
    skip = set(without.model_fields) if without else set()
    return [
        (f"`{key}`", value(field, key in schema.get("required", ())))
        for key, field in schema["properties"].items()
        if key not in skip
    ]


def value(schema: dict[str, Any], required: bool) -> str:
    """What a key takes and, in bold, what stands where it is left out: a section then has its own defaults."""
    if required:
        return f"{form(schema)}, required"
    default = schema.get("default", {})
    if isinstance(default, dict):
        return form(schema)
    if isinstance(default, list) and len(default) > 3:
        return f"{form(schema)}: **{len(default)} of them**"
    said = default if isinstance(default, str) and default else json.dumps(default)
    choices = form(schema).split(SEPARATOR)
    if said in choices:
        return SEPARATOR.join(f"**{one}**" if one == said else one for one in choices)
    return f"{form(schema)}: **{said}**"


def form(schema: dict[str, Any]) -> str:
    """What a key takes, of its JSON schema."""
    if "$ref" in schema or "discriminator" in schema:
        return "section"
    if "anyOf" in schema:
        return SEPARATOR.join(form(one) for one in schema["anyOf"])
    if "enum" in schema:
        return SEPARATOR.join(schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    if "prefixItems" in schema:
        return f"{len(schema['prefixItems'])} {form(schema['prefixItems'][0])}s"
    if schema["type"] == "array":
        return f"list of {form(schema['items'])}s"
    name = {"string": "text", "boolean": f"true{SEPARATOR}false", "object": "mapping"}.get(
        schema["type"], schema["type"]
    )
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    return " ".join([name, *(f"{sign} {schema[key]:g}" for key, sign in signs.items() if key in schema)])


def models_below(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """A model and every model that may stand below it."""
    yield model
    for field in model.model_fields.values():
        for inner in _models_in(field.annotation):
            yield from models_below(inner)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, UnionType, Annotated, list, tuple, dict):
        for inner in get_args(annotation):
            yield from _models_in(inner)


def documented(text: str) -> dict[str, list[list[str]]]:
    """The tables of a Markdown text whose first column is headed `key`: heading above it to the cells of its rows."""
    found: dict[str, list[list[str]]] = {}
    heading, inside = "", False
    for line in text.splitlines():
        if line.startswith("#"):
            heading, inside = line.lstrip("# "), False
        elif line.startswith("| key |"):
            found[heading], inside = [], True
        elif inside and line.startswith("|"):
            if not line.startswith("|---"):
                found[heading].append([cell.strip() for cell in line.strip("|").split("|")])
        else:
            inside = False
    return found
