# SPDX-License-Identifier: Apache-2.0
"""What the first process of a container has to do itself: the kernel gives it no default action for signals.

It also inherits the orphans of the container, which stay as zombies until it reaps them.
"""

import contextlib
import os
import signal
import time
from collections.abc import Collection
from pathlib import Path

from steerlm import processes
from steerlm.errors import Interrupted


class StopSignal:
    """Whether this process was told to stop. The first signal counts, later ones change nothing.

    Attributes:
        at: When, by the monotonic clock; None if it was not.
    """

    def __init__(self) -> None:
        self.at: float | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._receive())

    def __bool__(self) -> bool:
        return self.at is not None

    def older_than(self, seconds: float) -> bool:
        """Return whether it was told to stop so long ago."""
        return self.at is not None and time.monotonic() - self.at > seconds

    def check(self) -> None:
        """Raise `Interrupted` if it was told to stop."""
        if self:
            raise Interrupted("stopped before it started")

    def _receive(self) -> None:
        self.at = time.monotonic() if self.at is None else self.at


def reap_orphans(own: Collection[int]) -> None:
    """Reap ended processes that were left to process 1; does nothing in another one.

    `own`: the processes that this one has started; whoever started them also asks how they ended.
    """
    if os.getpid() != 1:
        return
    for children in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for pid in map(int, children.read_text().split()):
                if pid not in own and processes.state(pid) is None:
                    os.waitpid(pid, os.WNOHANG)
