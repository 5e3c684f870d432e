# SPDX-License-Identifier: Apache-2.0
"""Retries with exponential backoff. Which errors may pass, and are worth another attempt, is for the caller to say."""

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses between attempts, in seconds: `first`, doubled after each further failure, at most `longest`.

    `jitter` is the share of a pause that is random, so that many clients do not come back at the same moment.

    >>> [Backoff(first=0.5, longest=3.0).pause(failures) for failures in (1, 2, 3, 4)]
    [0.5, 1.0, 2.0, 3.0]
    """

    first: float
    longest: float = math.inf
    jitter: float = 0.0

    def pause(self, failures: int) -> float:
        """Return the pause after so many failures in a row, at least one."""
        return min(self.longest, self.first * 2.0 ** (failures - 1)) * random.uniform(1.0 - self.jitter, 1.0)


def retry(
    action: Callable[[], T],
    backoff: Backoff,
    attempts: int,
    may_pass: Callable[[Exception], bool],
    *,
    progress: Callable[[], int] | None = None,
    on_retry: Callable[[Exception, float], None] | None = None,
) -> T:
    """Return the result of `action`, called again while it fails with an error that may pass.

    Args:
        action: Called with no arguments.
        backoff: The pauses between attempts.
        attempts: Calls in a row without progress, at most; then the last error is raised.
        may_pass: Whether to try again after an error. Otherwise it is raised.
        progress: A number that grows when an attempt has achieved something before it failed, such as bytes received.
            The next attempt then starts at once and counts as the first.
        on_retry: Called with the error and the pause in seconds, before each pause.
    """
    failures = 0
    while True:
        before = progress() if progress else 0
        try:
            return action()
        except Exception as error:
            failures = 0 if progress and progress() > before else failures + 1
            if failures == attempts or not may_pass(error):
                raise
            if failures:
                pause = backoff.pause(failures)
                if on_retry:
                    on_retry(error, pause)
                time.sleep(pause)
