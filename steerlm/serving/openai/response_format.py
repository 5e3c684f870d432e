# SPDX-License-Identifier: Apache-2.0
"""`response_format`: the schema that an answer must conform to, in the forms of OpenAI's API."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import WithJsonSchema

from steerlm.errors import nearest, shown
from steerlm.serving.errors import ApiError

FORMS = ("text", "json_object", "json_schema")
FIELDS = ("name", "description", "schema", "strict")
"""Of `json_schema`. Name and description may be anything, and so may `strict`: an answer always conforms."""

_SCHEMA = {"type": "object", "required": ["schema"], "properties": {"schema": {"type": "object"}}}
ResponseFormat = Annotated[
    Any,
    WithJsonSchema(
        {
            "anyOf": [
                {
                    "type": "object",
                    "required": ["type"],
                    "properties": {"type": {"enum": ["text", "json_object"]}},
                },
                {
                    "type": "object",
                    "required": ["type", "json_schema"],
                    "properties": {"type": {"const": "json_schema"}, "json_schema": _SCHEMA},
                },
                {"type": "null"},
            ]
        }
    ),
]


def schema_of(given: Any) -> Mapping[str, Any] | None:
    """Return the schema in a `response_format`; None for an answer of any text.

    Raises:
        ApiError: It has none of the forms.
    """
    where = "response_format"
    if given is None:
        return None
    if not isinstance(given, Mapping) or "type" not in given:
        raise ApiError(f'{where} must have the form {{"type": "json_object"}}, not {shown(given)}', param=where)
    form = given["type"]
    if form not in FORMS:
        hint = nearest(form, FORMS) if isinstance(form, str) else f"; it is one of {', '.join(FORMS)}"
        raise ApiError(f"{where}.type is {shown(form)}{hint}", param=f"{where}.type")
    allowed = ("type", "json_schema") if form == "json_schema" else ("type",)
    _refuse_unknown(given, allowed, where)
    if form != "json_schema":
        return {"type": "object"} if form == "json_object" else None
    where = f"{where}.json_schema"
    named = given.get("json_schema")
    if not isinstance(named, Mapping):
        example = '{"name": "answer", "schema": {"type": "object"}}'
        raise ApiError(f"{where} must have the form {example}, not {shown(named)}", param=where)
    _refuse_unknown(named, FIELDS, where)
    schema = named.get("schema")
    if not isinstance(schema, Mapping):
        raise ApiError(f"{where}.schema must be a JSON schema, not {shown(schema)}", param=f"{where}.schema")
    return schema


def _refuse_unknown(given: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for name, value in given.items():
        if name not in known and value is not None:
            raise ApiError(f"{where}.{name}: unknown field{nearest(name, known)}", param=f"{where}.{name}")
