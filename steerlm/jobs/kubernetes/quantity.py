# SPDX-License-Identifier: Apache-2.0
"""Kubernetes' notation of resource quantities."""

import re

_SUFFIXES = {"": 1.0, "m": 1e-3, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_SUFFIXES |= {f"{letter}i": 2.0 ** (10 * power) for power, letter in enumerate("KMGTPE", 1)}
_QUANTITY = re.compile(r"([0-9.]+(?:[eE][+-]?[0-9]+)?)([a-zA-Z]*)")


def amount(quantity: str) -> float:
    """Return a quantity as a number.

    >>> amount("1000Gi") / 2**30, amount("250m"), amount("3")
    (1000.0, 0.25, 3.0)

    Raises:
        ValueError: It is not a quantity.
    """
    match = _QUANTITY.fullmatch(quantity)
    if match is None or match[2] not in _SUFFIXES:
        raise ValueError(f"{quantity!r} is not a quantity such as 96, 250m or 200Gi")
    return float(match[1]) * _SUFFIXES[match[2]]
