# SPDX-License-Identifier: Apache-2.0
"""The schedule against NeMo's values: `docs/upstream.md#optimizer-and-schedule`."""

import pytest

from steerlm.errors import ConfigError
from steerlm.training.config import OptimizerSettings
from steerlm.training.schedule import learning_rate


def rate(step: int, max_steps: int, **settings: float) -> float:
    return learning_rate(OptimizerSettings.model_validate(settings), step, max_steps)


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 8.1818e-7), (5, 4.9091e-6), (10, 9.0e-6), (400, 5.0305e-6), (800, 9.0e-7), (900, 9.0e-7)]
)
def test_without_constant_steps(step: int, expected: float) -> None:
    assert rate(step, 800, lr=9e-6, min_lr=9e-7, warmup_steps=10) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("step", "expected"), [(0, 0.0), (1, 6e-6), (300, 5.5013e-6), (600, 5e-6), (799, 5e-6)])
def test_with_constant_steps(step: int, expected: float) -> None:
    got = rate(step, 800, lr=6e-6, min_lr=5e-6, warmup_steps=1, constant_steps=200)
    assert got == pytest.approx(expected, rel=1e-4)


def test_equal_rates_are_constant_after_the_warm_up() -> None:
    rates = [rate(s, 317, lr=2e-6, min_lr=2e-6, warmup_steps=10) for s in range(317)]
    assert rates[0] == pytest.approx(2e-6 / 11)
    assert set(rates[10:]) == {2e-6}


def test_without_warm_up_it_starts_at_the_full_rate() -> None:
    assert rate(0, 10, lr=1.0, min_lr=0.0, warmup_steps=0) == 1.0
    assert rate(0, 10, lr=1.0, min_lr=0.0, warmup_steps=0, constant_steps=2) == 1.0
    assert rate(4, 10, lr=1.0, min_lr=0.0, warmup_steps=0, constant_steps=2) == pytest.approx(0.5)


def test_a_warm_up_longer_than_training_is_a_ramp() -> None:
    assert [rate(s, 3, lr=1.0, min_lr=0.0, warmup_steps=9) for s in range(3)] == pytest.approx([0.1, 0.2, 0.3])


def test_constant_steps_that_leave_no_decay_are_refused() -> None:
    with pytest.raises(ConfigError, match="warmup_steps 10 \\+ constant_steps 1000 leave no step of 800"):
        rate(0, 800, lr=9e-6, min_lr=9e-7, warmup_steps=10, constant_steps=1000)


def test_a_minimum_above_the_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="below min_lr"):
        OptimizerSettings(lr=1e-6, min_lr=2e-6)
    with pytest.raises(ValueError, match="constant_steps = 0"):
        OptimizerSettings(lr=2e-6, min_lr=2e-6, constant_steps=5)
