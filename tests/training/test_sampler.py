# SPDX-License-Identifier: Apache-2.0
"""The order of units: a function of the seed and the units consumed, independent of batches."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerlm.errors import ConfigError
from steerlm.training.config import TextSettings
from steerlm.training.sampler import Sampler, total_steps


@given(st.integers(1, 40), st.integers(0, 2**31), st.lists(st.integers(1, 50), min_size=1, max_size=6))
def test_the_order_does_not_depend_on_the_batches(size: int, seed: int, takes: list[int]) -> None:
    whole = Sampler(size, seed).take(sum(takes)).tolist()
    sampler = Sampler(size, seed)
    assert [i for n in takes for i in sampler.take(n).tolist()] == whole
    assert sampler.consumed == sum(takes)


@given(st.integers(1, 40), st.integers(0, 99), st.integers(0, 120), st.integers(1, 30))
def test_a_resumed_sampler_continues_where_it_was(size: int, seed: int, consumed: int, count: int) -> None:
    expected = Sampler(size, seed).take(consumed + count)[consumed:]
    assert Sampler(size, seed, consumed).take(count).tolist() == expected.tolist()


def test_every_epoch_has_every_unit_once_in_another_order() -> None:
    sampler = Sampler(100, 7)
    first, second = sampler.take(100).tolist(), sampler.take(100).tolist()
    assert sorted(first) == sorted(second) == list(range(100))
    assert first != second != list(range(100))
    assert Sampler(100, 8).take(100).tolist() != first


def test_the_order_is_frozen() -> None:
    """A resume years later, with another numpy version, must continue in the same order."""
    assert Sampler(8, 1234).take(16).tolist() == [5, 6, 3, 7, 4, 1, 2, 0, 2, 0, 7, 6, 1, 4, 5, 3]


def settings(**values: float) -> TextSettings:
    return TextSettings.model_validate({"global_batch": 10, **values})


def test_steps_follow_epochs_or_max_steps_and_left_over_units_are_counted() -> None:
    assert total_steps(settings(epochs=1), 25) == (2, 5)
    assert total_steps(settings(epochs=2), 25) == (5, 0)
    assert total_steps(settings(epochs=0.5), 25) == (1, 2)
    assert total_steps(settings(max_steps=7), 25) == (7, 0)
    assert total_steps(settings(max_steps=7), 3) == (7, 0)
    assert total_steps(settings(max_steps=1, epochs=1), 25) == (1, 0)
    assert total_steps(settings(max_steps=9, epochs=1), 25) == (2, 5)


def test_epochs_that_hold_no_global_batch_are_refused() -> None:
    with pytest.raises(ConfigError, match="1 epochs of 9 units hold no global batch of 10"):
        total_steps(settings(epochs=1), 9)
