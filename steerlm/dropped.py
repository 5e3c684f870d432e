# SPDX-License-Identifier: Apache-2.0
"""What a step leaves out of its input: how it is said, from which share it is a warning, and from which an error.

Used wherever records are dropped: preparation, annotation, tokenization. Each counts for itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from steerlm.errors import InputError

WARN_ABOVE = 0.05
"""The share above which a dropped part is a warning."""
DEFAULT_LIMIT = 0.5
"""The share above which it is an error, if a recipe does not say otherwise."""

REASONS = {"dropped_over_long": "longer than the window", "dropped_no_learned_token": "without a learned token"}
"""Count of an objective -> why these records were dropped."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """Records that were left out.

    Attributes:
        where: The file or data set.
        number: Records left out.
        total: Records that were read.
        what: What a record is called, in the plural.
        why: Why they were left out.
    """

    where: str
    number: int
    total: int
    what: str
    why: str

    @classmethod
    def from_counts(cls, where: str, counts: Mapping[str, int], what: str = "records") -> "Dropped":
        """Return what a token index leaves out, by the counts of its objective."""
        reasons = {text: counts[name] for name, text in REASONS.items() if counts.get(name)}
        why = ", ".join(f"{number:,} {text}" if len(reasons) > 1 else text for text, number in reasons.items())
        return cls(where, sum(reasons.values()), counts.get("records", 0), what, why)

    @property
    def share(self) -> float:
        """The part that was left out, 0..1."""
        return self.number / self.total if self.total else 0.0

    @property
    def much(self) -> bool:
        """Whether it is enough to be a warning."""
        return self.share > WARN_ABOVE

    def __str__(self) -> str:
        return f"{self.where}: {self.number:,} of {self.total:,} {self.what} dropped ({self.share:.1%}): {self.why}"

    def check(self, limit: float, key: str, remedy: str) -> None:
        """Raise `InputError` if the share is above `limit`, which is the setting `key`."""
        if self.share > limit:
            raise InputError(f"{self}; at most {limit:.0%} may be ({key}): {remedy}, or raise {key}")
