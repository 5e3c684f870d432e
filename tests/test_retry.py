# SPDX-License-Identifier: Apache-2.0
"""Retries: how often, how long between, and what ends them."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from steerlm.retry import Backoff, retry


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr("steerlm.retry.time", SimpleNamespace(sleep=slept.append))  # other threads sleep as ever
    return slept


def failing(times: int, error: type[Exception] = OSError) -> Callable[[], str]:
    """Return an action that fails `times` times and then returns."""
    calls = iter(range(times))

    def action() -> str:
        for call in calls:
            raise error(call)
        return "done"

    return action


def test_pauses_double_until_the_action_succeeds(pauses: list[float]) -> None:
    seen: list[tuple[str, float]] = []
    result = retry(
        failing(3), Backoff(1.0, longest=3.0), 4, lambda error: True, on_retry=lambda e, s: seen.append((str(e), s))
    )
    assert result == "done"
    assert pauses == [1.0, 2.0, 3.0]
    assert seen == [("0", 1.0), ("1", 2.0), ("2", 3.0)]


def test_the_last_error_is_raised(pauses: list[float]) -> None:
    with pytest.raises(OSError, match="2"):
        retry(failing(9), Backoff(1.0), 3, lambda error: True)
    assert pauses == [1.0, 2.0]


def test_an_error_that_cannot_pass_is_raised_at_once(pauses: list[float]) -> None:
    with pytest.raises(ValueError, match="0"):
        retry(failing(1, ValueError), Backoff(1.0), 3, lambda error: isinstance(error, OSError))
    assert pauses == []


def test_progress_starts_the_count_again_without_a_pause(pauses: list[float]) -> None:
    received = iter([0, 1, 1, 1, 1, 2, 2, 2, 2, 2])  # before and after each attempt
    with pytest.raises(OSError, match="4"):
        retry(failing(9), Backoff(1.0), 2, lambda error: True, progress=lambda: next(received))
    assert pauses == [1.0, 1.0]


def test_jitter_shortens_a_pause_by_its_share_at_most() -> None:
    drawn = [Backoff(8.0, jitter=0.5).pause(1) for _ in range(100)]
    assert 4.0 <= min(drawn) < max(drawn) <= 8.0
