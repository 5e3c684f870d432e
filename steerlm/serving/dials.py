# SPDX-License-Identifier: Apache-2.0
"""Where a request's dials may be, and what is said of dials elsewhere: none is lost without a word."""

import difflib
import json
from collections.abc import Collection, Mapping
from typing import Any

from steerlm.attributes import AttributeSchema, parse_labels
from steerlm.errors import LabelError, shown
from steerlm.serving.errors import ApiError
from steerlm.serving.no_effect import Harmless, has_no_effect

RAW_PLACE = "the prompt is continued as it is: write the dials into it, or send messages to /v1/chat/completions"
WORDS = ("attributes", "label", "labels", "dials")
"""Names under which dials are sent."""

TEMPLATE_DEFAULTS: Harmless = {
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "enable_thinking": (False,),
    "thinking": (False,),
}
"""Arguments of other chat templates, with the values that ask for what happens here anyway."""


def chat_place(schema: AttributeSchema | None) -> str:
    """Return where the dials of a chat request go, shown with a dial that the model has."""
    return f'dials go into chat_template_kwargs: {{"attributes": {_example(schema)}}}'


def requested_dials(
    attributes: Any, arguments: Mapping[str, Any] | None, schema: AttributeSchema | None
) -> dict[str, Any]:
    """Return the dials of a chat request, which `AttributeSchema.check` has not seen yet.

    Args:
        attributes: The top-level `attributes`.
        arguments: `chat_template_kwargs`: with `attributes`, a `label` string or dials by name.
        schema: The model's attributes.

    Raises:
        ApiError: An argument is unknown, or a dial has two values.
    """
    names = schema.active if schema else ()
    given: list[tuple[str, Mapping[str, Any]]] = []
    if attributes is not None:
        given.append(("attributes", _mapping(attributes, "attributes", schema)))
    for name, value in (arguments or {}).items():
        where = f"chat_template_kwargs.{name}"
        if has_no_effect(name, value, TEMPLATE_DEFAULTS):
            continue
        if name == "attributes":
            given.append((where, _mapping(value, where, schema)))
        elif name == "label":
            given.append((where, read_label(value, where)))
        elif name in names:
            given.append((where, {name: value}))
        else:
            known = difflib.get_close_matches(name, ["attributes", "label", *names], n=1, cutoff=0.6)
            hint = f"; did you mean {known[0]!r}?" if known else f"; {chat_place(schema)}"
            raise ApiError(f"chat_template_kwargs: unknown key {name!r}{hint}", param="chat_template_kwargs")
    dials: dict[str, Any] = {}
    places: dict[str, str] = {}
    for where, values in given:
        for name, value in values.items():
            if name in dials and dials[name] != value:
                raise ApiError(f"{places[name]} and {where} differ in {name!r}; give one", param=where)
            dials[name], places[name] = value, where
    return dials


def is_dial(name: str, schema: AttributeSchema | None) -> bool:
    """Return whether a field seems to be meant as a dial or as a mapping of dials."""
    names = [*WORDS, *(schema.names if schema else ())]
    return bool(difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.75))


def misplaced(name: str, schema: AttributeSchema | None, known: Collection[str], place: str) -> str:
    """Return what is wrong with an unknown field that `is_dial`.

    Args:
        name: The field.
        schema: The model's attributes.
        known: Fields of the request.
        place: Where dials go.
    """
    names = schema.names if schema else ()
    close = difflib.get_close_matches(name.lower(), [*known, *names], n=1, cutoff=0.75)
    hint = f", did you mean {close[0]!r}?" if close and close[0] != name else ""
    return f"{name!r} is not a field of this route{hint}; {place}"


def _mapping(value: Any, where: str, schema: AttributeSchema | None) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    raise ApiError(f"{where} must be an object such as {_example(schema)}, not {shown(value)}", param=where)


def _example(schema: AttributeSchema | None) -> str:
    names = schema.active if schema else ()
    name = "humor" if "humor" in names or not names else names[0]
    return json.dumps({name: schema.high if schema else 4})


def read_label(value: Any, where: str) -> Mapping[str, Any]:
    """Return the values in a label, which the schema has not checked yet; an empty text has none.

    Raises:
        ApiError: It is neither a label string nor a mapping.
    """
    if isinstance(value, Mapping):
        return value
    if not isinstance(value, str):
        form = 'a text such as "quality:4,humor:0" or an object'
        raise ApiError(f"{where} must be {form}, not {shown(value)}", param=where)
    try:
        return parse_labels(value) if value else {}
    except LabelError as error:
        raise ApiError(f"{where}: {error}", param=where) from None
