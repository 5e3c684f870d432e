# SPDX-License-Identifier: Apache-2.0
"""When Python collects garbage during training: at the same step in every process. Knows no engine and no data.

Left alone, each process collects whenever it has allocated enough, at a step of its own; and as every step waits for
the slowest process, among some hundred of them hardly a step is spared.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

EVERY = 50
"""Steps between collections, as in torchtitan: what a step leaves behind is some kilobytes, as tensors are freed by
their reference counts."""


@contextmanager
def scheduled_collection() -> Iterator[None]:
    """Within it only `collect_at` collects garbage, and never among what exists already: modules, model, optimizer."""
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
    """To be called after every step; collects the young generations at some."""
    if step % EVERY == 0:
        gc.collect(1)
