# SPDX-License-Identifier: Apache-2.0
"""Fields of other interfaces that are accepted only with a value that asks for what happens here anyway."""

from collections.abc import Mapping
from typing import Any

Harmless = Mapping[str, tuple[Any, ...]]
"""Names of such fields, each with these values. Null is always one."""


def has_no_effect(name: str, value: Any, harmless: Harmless) -> bool:
    """Return whether a field has a value that can be ignored.

    >>> has_no_effect("tools", [], {"tools": ([],)}), has_no_effect("tools", ["a"], {"tools": ([],)})
    (True, False)
    >>> has_no_effect("anything", None, {})
    True
    """
    return value is None or value in harmless.get(name, ())
