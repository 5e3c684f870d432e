# SPDX-License-Identifier: Apache-2.0
"""A progress bar on a terminal; the library behind it is imported when the first bar is shown."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def with_progress(items: Iterable[T], name: str, unit: str) -> Iterator[T]:
    """Iterate over `items` and show the progress on stderr if that is a terminal."""
    from tqdm import tqdm

    return iter(tqdm(items, desc=name, unit=f" {unit}", disable=None))
