# SPDX-License-Identifier: Apache-2.0
"""What each key uses of its limits: requests and tokens per minute, requests at the same time.

Counted in this process: with several replicas, each has limits of its own.
"""

import math
import time

from steerlm.serving.errors import ApiError
from steerlm.serving.operations.keys import ApiKey, KeyLimits


class TokenBucket:
    """A budget that refills evenly up to a minute's amount, and may be overdrawn by what was admitted before.

    Args:
        per_minute: The amount.
    """

    def __init__(self, per_minute: int) -> None:
        self._capacity, self._rate = per_minute, per_minute / 60
        self._level, self._at = float(per_minute), time.monotonic()

    def wait(self) -> float:
        """Return the seconds until one unit is there; 0 if it is."""
        now = time.monotonic()
        self._level = min(self._capacity, self._level + (now - self._at) * self._rate)
        self._at = now
        return max(0.0, (1 - self._level) / self._rate)

    def spend(self, count: int) -> None:
        """Take units, below zero too."""
        self._level -= count


class KeyUsage:
    """What one key uses now."""

    def __init__(self, name: str, limits: KeyLimits) -> None:
        self.limits, self._name, self.running = limits, name, 0
        self._requests = TokenBucket(limits.requests_per_minute) if limits.requests_per_minute else None
        self._tokens = TokenBucket(limits.tokens_per_minute) if limits.tokens_per_minute else None

    def enter(self) -> None:
        """Admit one request; `leave` ends it.

        Raises:
            ApiError: Status 429 with the limit's name.
        """
        limits = self.limits
        if limits.concurrent_requests and self.running >= limits.concurrent_requests:
            self._refuse("concurrent_requests", limits.concurrent_requests, 1)
        for name, bucket in (("requests_per_minute", self._requests), ("tokens_per_minute", self._tokens)):
            if bucket and (wait := bucket.wait()) > 0:
                self._refuse(name, getattr(limits, name), wait)
        if self._requests:
            self._requests.spend(1)
        self.running += 1

    def leave(self) -> None:
        """End a request."""
        self.running -= 1

    def spend(self, tokens: int) -> None:
        """Count tokens."""
        if self._tokens:
            self._tokens.spend(tokens)

    def _refuse(self, limit: str, value: int, wait: float) -> None:
        raise ApiError(
            f"the API key {self._name!r} has reached its limit of {value} {limit.replace('_', ' ')}; try again in "
            f"{math.ceil(wait)} s",
            status=429,
            reason=limit,
            retry_after=math.ceil(wait),
        )


class UsageOfKeys:
    """The usage of all keys by name; a key whose limits change starts with full budgets."""

    def __init__(self) -> None:
        self._usage: dict[str, KeyUsage] = {}

    def of(self, key: ApiKey) -> KeyUsage:
        """Return the usage of a key."""
        usage = self._usage.get(key.name)
        if usage is None or usage.limits != key.limits:
            usage = self._usage[key.name] = KeyUsage(key.name, key.limits)
        return usage
