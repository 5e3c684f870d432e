# SPDX-License-Identifier: Apache-2.0
"""The attribute schema: the attributes' names, order, range and defaults, and the syntax of labels.

The default is SteerLM's nine attributes on 0..4 (docs/upstream.md#constants); a recipe may define any other set.
Code receives the schema as an argument and never imports one as a constant.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Self

from pydantic import Field, model_validator

from steerlm.errors import LabelError, nearest
from steerlm.settings import Settings

MASKED = -100.0
"""Target value of an attribute without a label; every loss ignores it."""

NUMBER_CHARACTERS = frozenset("0123456789+-.eE")
"""Characters of a number in a label string."""

OASST = ("quality", "toxicity", "humor", "creativity")
HELPSTEER = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")

Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$")]


class AttributeSchema(Settings):
    """Attribute names in label-vector order, their common integer range and their defaults.

    Attributes that are not in `defaults` default to `high`. `trained` lists the attributes a model has seen labels
    for; only those are written or accepted (`None`: all).
    """

    names: tuple[Name, ...] = OASST + HELPSTEER
    low: int = 0
    high: int = 4
    defaults: dict[str, int] = Field(default_factory=dict)
    trained: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.names or len(set(self.names)) != len(self.names):
            raise ValueError("attribute names must be given and unique")
        if self.low >= self.high:
            raise ValueError(f"attribute range {self.low}..{self.high} is empty")
        for name in self.trained or ():
            if name not in self.names:
                raise ValueError(f"trained attribute {name!r} is not in the schema{nearest(name, self.names)}")
        for name, value in self.defaults.items():
            if name not in self.names:
                raise ValueError(f"default for unknown attribute {name!r}{nearest(name, self.names)}")
            if not self.low <= value <= self.high:
                raise ValueError(f"default {name}:{value} is outside {self.low}..{self.high}")
        return self

    @property
    def active(self) -> tuple[str, ...]:
        """The trained attributes, in label-vector order."""
        return tuple(n for n in self.names if self.trained is None or n in self.trained)

    def restricted(self, trained: Sequence[str]) -> "AttributeSchema":
        """Return the schema with `trained` set to these attributes, in label-vector order."""
        return self.model_copy(update={"trained": tuple(n for n in self.names if n in set(trained))})

    def default(self, name: str) -> int:
        """Return the value of an attribute that a request does not set: its entry in `defaults`, else `high`."""
        return self.defaults.get(name, self.high)

    def complete(self, labels: Mapping[str, int]) -> dict[str, int]:
        """Return a value for every trained attribute: from `labels`, which are checked, else the default."""
        self.check(labels)
        return {name: labels.get(name, self.default(name)) for name in self.active}

    def check(self, labels: Mapping[str, float]) -> None:
        """Raise `LabelError` naming the first attribute that is unknown, untrained, not an integer or out of range."""
        for name, value in labels.items():
            if name not in self.names:
                raise LabelError(f"unknown attribute {name!r}{nearest(name, self.active)}")
            if name not in self.active:
                raise LabelError(f"attribute {name!r} was never trained; trained: {', '.join(self.active)}")
            if isinstance(value, bool) or not isinstance(value, int | float) or value != value or value % 1:
                raise LabelError(f"attribute {name!r} must be an integer {self.low}..{self.high}, not {value!r}")
            if not self.low <= value <= self.high:
                raise LabelError(f"attribute {name!r} must be in {self.low}..{self.high}, not {value}")

    def format(self, labels: Mapping[str, float]) -> str:
        """Return `name:value,...` in label-vector order; whole numbers have no decimal point.

        >>> AttributeSchema().format({"toxicity": 0, "quality": 4.0})
        'quality:4,toxicity:0'
        """
        for name in labels:
            if name not in self.names:
                raise LabelError(f"unknown attribute {name!r}{nearest(name, self.names)}")
        return format_labels({name: labels[name] for name in self.names if name in labels})

    def vector(self, labels: Mapping[str, float]) -> list[float]:
        """Return the label vector, `MASKED` where `labels` has no value; names outside the schema are ignored."""
        return [float(labels[n]) if n in labels else MASKED for n in self.names]

    def round(self, scores: Sequence[float]) -> dict[str, int]:
        """Return labels of the trained attributes from raw scores in schema order.

        Scores are clamped to the range and rounded half to even (docs/upstream.md#annotate-script):
        -0.7 -> 0, 0.5 -> 0, 1.5 -> 2, 2.5 -> 2, 2.51 -> 3, 4.9 -> 4.
        """
        if len(scores) != len(self.names):
            raise LabelError(f"{len(scores)} scores for {len(self.names)} attributes ({', '.join(self.names)})")
        if not all(math.isfinite(s) for s in scores):
            raise LabelError("a score is not a finite number")
        clamped = (min(max(s, self.low), self.high) for s in scores)
        return {n: round(s) for n, s in zip(self.names, clamped, strict=True) if n in self.active}


def parse_labels(text: str) -> dict[str, float]:
    """Parse a label string such as `quality:3,toxicity:0` into a mapping in the same order.

    The only parser of label strings in Python; the chat template has the same rules. Blanks around names and values
    are ignored, a value may be any decimal number: `quality: 3.0, toxicity:0` means the same.

    Raises:
        LabelError: A part has no colon or no name, its value is not a finite number, or a name is given twice.
    """
    labels: dict[str, float] = {}
    for part in text.split(","):
        name, colon, value = part.partition(":")
        name, number = name.strip(" "), _parse_number(value.strip(" "))
        if not colon or not name or number is None:
            raise LabelError(f"label string {text!r}: {part!r} is not in the form name:number")
        if name in labels:
            raise LabelError(f"label string {text!r}: {name!r} is given twice")
        labels[name] = number
    return labels


def format_labels(labels: Mapping[str, float]) -> str:
    """Return `name:value,...` in the order of the mapping: the only formatter of label strings.

    No blanks; whole numbers have no decimal point, so that a text always has the same label for the same value.

    >>> format_labels(parse_labels("toxicity: 0.0, quality:2.5"))
    'toxicity:0,quality:2.5'
    """
    return ",".join(f"{name}:{_format_number(value)}" for name, value in labels.items())


def _parse_number(text: str) -> float | None:
    """Return a finite decimal number; None for anything else, also for what only Python calls one, such as 1_0."""
    try:
        number = float(text) if set(text) <= NUMBER_CHARACTERS else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _format_number(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)
