# SPDX-License-Identifier: Apache-2.0
"""Python's garbage collection during training, at the same step in every process.

Left alone, each process collects at steps of its own, whenever it has allocated enough. As every step waits for the
slowest process, among hundreds of them almost every step would be delayed.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

EVERY = 50
"""Steps between collections, as in torchtitan. A step leaves only kilobytes behind: reference counts free tensors."""


@contextmanager
def scheduled_collection() -> Iterator[None]:
    """Within it, only `collect_at` collects garbage, and ignores objects that exist already (modules, optimizer)."""
    enabled = gc.isenabled()
    gc.disable()
    gc.collect(1)
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()


def collect_at(step: int) -> None:
    """Collect the young generations every `EVERY` steps. Call it after every step."""
    if step % EVERY == 0:
        gc.collect(1)
