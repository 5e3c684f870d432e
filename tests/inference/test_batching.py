# SPDX-License-Identifier: Apache-2.0
"""Batches by length: everything once, within the budget, the same for the same lengths."""

from hypothesis import given
from hypothesis import strategies as st

from steerlm.inference.batching import by_length


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 200))
def test_every_index_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = list(by_length(lengths, budget))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[i] for i in batch)
        assert len(batch) == 1 or len(batch) * longest <= budget
    flat = [lengths[i] for batch in batches for i in batch]
    assert flat == sorted(flat, reverse=True)


def test_a_full_budget_is_used() -> None:
    assert list(by_length([4] * 5, budget=8)) == [[0, 1], [2, 3], [4]]
