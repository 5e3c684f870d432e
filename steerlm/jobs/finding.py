# SPDX-License-Identifier: Apache-2.0
"""`Finding`: what `steerlm doctor` says of one thing that it looked at."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor.

    Attributes:
        subject: What was looked at, such as `queue`.
        ok: Whether it is as it must be.
        text: What was found.
        mend: A command that mends it, or what to do where no command can; "" if it is ok.
    """

    subject: str
    ok: bool
    text: str
    mend: str = ""


def right(subject: str, text: str) -> Finding:
    """Return the finding that all is well."""
    return Finding(subject, True, text)


def wrong(subject: str, text: str, mend: str) -> Finding:
    """Return the finding that something is wrong, and what mends it."""
    return Finding(subject, False, text, mend)


def to_json(findings: Iterable[Finding]) -> str:
    """Return findings as one line of JSON, which `from_json` reads."""
    return json.dumps([asdict(finding) for finding in findings])


def from_json(text: str) -> list[Finding]:
    """Read what `to_json` wrote. Raises ValueError if it is anything else."""
    try:
        return [Finding(**values) for values in json.loads(text)]
    except TypeError as error:
        raise ValueError(f"not findings: {error}") from None
