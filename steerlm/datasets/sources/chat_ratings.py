# SPDX-License-Identifier: Apache-2.0
"""The ratings of a chat row: where they are, and how they are mapped onto the attributes' range."""

import math
from collections.abc import Mapping
from typing import Any

from steerlm.attributes import AttributeSchema
from steerlm.errors import nearest

DIGITS = 4
"""Decimal places of a rescaled rating."""


def read_ratings(
    row: Mapping[str, Any],
    columns: Mapping[str, str] | None,
    limits: tuple[float, float] | None,
    schema: AttributeSchema,
) -> dict[str, float]:
    """Return the labels of a row by attribute; an empty cell or null is no rating.

    Args:
        row: The row.
        columns: Attribute -> column, which may be a path such as `scores.overall`. None: the mapping `ratings` if the
            row has it, else the columns named like attributes.
        limits: The lowest and the highest rating; None: the schema's range.
        schema: The attributes.

    Raises:
        ValueError: If a rating is not a number, outside the limits, or of an unknown attribute, or its column is
            missing.
    """
    labels = {}
    for name, value in _raw_ratings(row, columns, schema).items():
        rating = _number(value, name)
        if rating is not None:
            labels[name] = rescale(name, rating, limits, schema)
    return labels


def rescale(name: str, rating: float, limits: tuple[float, float] | None, schema: AttributeSchema) -> float:
    """Map a rating linearly onto the schema's range, rounded to 4 decimal places.

    With limits a..b and the range low..high: low + (rating - a) * (high - low) / (b - a).

    >>> rescale("helpfulness", 7, (1, 10), AttributeSchema())
    2.6667
    """
    a, b = limits or (schema.low, schema.high)
    if not a <= rating <= b:
        remedy = "" if limits else "; scale: {from: [LOWEST, HIGHEST]} (--scale-from) rescales ratings"
        raise ValueError(f"rating {name} is {rating:g}, outside {a:g}..{b:g}{remedy}")
    if not limits:
        return rating
    return round(schema.low + (rating - a) * (schema.high - schema.low) / (b - a), DIGITS)


def _raw_ratings(
    row: Mapping[str, Any], columns: Mapping[str, str] | None, schema: AttributeSchema
) -> Mapping[str, Any]:
    if columns is not None:
        return {name: _value_at(row, column) for name, column in columns.items()}
    ratings = row.get("ratings")
    if ratings is None:
        return {name: row[name] for name in schema.names if name in row}
    if not isinstance(ratings, dict):
        raise ValueError(f"ratings must be a mapping of attributes to numbers, not {ratings!r}")
    for name in ratings:
        if name not in schema.names:
            raise ValueError(
                f"ratings: {name!r} is not an attribute of the schema{nearest(name, schema.names)}; "
                "attributes: {ATTRIBUTE: ratings.NAME} (--rating) selects some"
            )
    return ratings


def _value_at(row: Mapping[str, Any], column: str) -> Any:
    if column in row:
        return row[column]
    value: Any = row
    for key in column.split("."):
        if value is None:
            return None
        if not isinstance(value, Mapping) or key not in value:
            raise ValueError(f"column {column} is missing; a row without the rating has null or an empty cell there")
        value = value[key]
    return value


def _number(value: Any, name: str) -> float | None:
    """Return a rating as a number, None for an empty cell. Numbers may be texts, as in CSV."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"rating {name} must be a number, not {value!r}")
    return number
