# SPDX-License-Identifier: Apache-2.0
"""The ratings of a chat row: where they are, and how they are mapped onto the attributes' range."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from steerlm.attributes import AttributeSchema
from steerlm.errors import nearest

DIGITS = 4
"""Decimal places of a rescaled rating."""
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,(\d{1,2}|\d{4,})")
"""`7,5`; three digits after a comma may be thousands."""


def read_ratings(
    row: Mapping[str, Any],
    columns: Mapping[str, str] | None,
    limits: tuple[float, float] | None,
    schema: AttributeSchema,
) -> dict[str, float]:
    """Return the labels of a row by attribute; an empty cell or null is no rating.

    Args:
        row: The row.
        columns: Attribute -> column, which may be a path such as `scores.overall`; other attributes have the columns
            of their names. None: the mapping `ratings` if the row has it, else the columns named like attributes.
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
    named = {name: row[name] for name in schema.names if name in row}
    if columns is not None:
        return named | {name: _value_at(row, column) for name, column in columns.items()}
    ratings = row.get("ratings")
    if ratings is None:
        return named
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
            raise ValueError(
                f"column {column} is missing{nearest(key, value) if isinstance(value, Mapping) else ''}; "
                "a row without the rating has null or an empty cell there"
            )
        value = value[key]
    return value


def _number(value: Any, name: str) -> float | None:
    """Return a rating as a number, None for an empty cell. Numbers may be texts, with a decimal comma too."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str) and _DECIMAL_COMMA.fullmatch(value.strip()):
        value = value.replace(",", ".")
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"rating {name} must be a number, not {value!r}; where there is no rating, leave it empty")
    return number


class UnreadRatings:
    """Finds ratings that a conversion did not read: columns of numbers, while attributes have no rating."""

    def __init__(self, schema: AttributeSchema, used: Iterable[str]) -> None:
        """Args: the attributes, and the columns that are read for something else than a column of its own name."""
        self._schema, self._used = schema, {*used, *schema.names}
        self._rated: Counter[str] = Counter()
        self._numbers: dict[str, bool] = {}

    def add(self, row: Mapping[str, Any], labels: Iterable[str]) -> None:
        """Count a row and the attributes for which ratings were read of it."""
        self._rated.update(labels)
        for column in row.keys() - self._used:
            if self._numbers.get(column, True):
                try:
                    number = _number(row[column], column)
                except ValueError:
                    self._numbers[column] = False
                    continue
                if number is not None:
                    self._numbers[column] = True

    def note(self) -> str | None:
        """Return what was not read, if there is something that could have been a rating."""
        without = [name for name in self._schema.names if not self._rated[name]]
        unread = sorted(column for column, all_numbers in self._numbers.items() if all_numbers)
        if not (without and unread):
            return None
        return (
            f"no rating of {', '.join(without)} was found, and nothing was read of the columns {', '.join(unread)}; "
            "attributes: {ATTRIBUTE: COLUMN} (--rating ATTRIBUTE=COLUMN) reads one, --attributes FILE gives attributes "
            "of your own"
        )
