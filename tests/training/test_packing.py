# SPDX-License-Identifier: Apache-2.0
"""The plan that packs samples into rows: nothing lost, nothing doubled, every rank alike."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerlm.training.packing import plan_rows

LENGTHS = st.lists(st.integers(1, 64), max_size=60)


@given(LENGTHS, st.integers(64, 200), st.integers(1, 9))
def test_every_sample_is_in_one_row_of_one_rank(lengths: list[int], row_tokens: int, ranks: int) -> None:
    dealt = plan_rows(lengths, row_tokens, ranks)
    assert sorted(i for rank in dealt for row in rank for i in row) == list(range(len(lengths)))
    assert len(dealt) == ranks
    assert len({len(rank) for rank in dealt}) == 1 and len(dealt[0]) >= 1
    assert all(sum(lengths[i] for i in row) <= row_tokens for rank in dealt for row in rank)


@given(LENGTHS, st.integers(64, 200), st.integers(1, 9))
def test_there_are_no_more_rows_than_best_fit_needs(lengths: list[int], row_tokens: int, ranks: int) -> None:
    """Best fit decreasing never leaves two rows that would fit into one."""
    rows = [sum(lengths[i] for i in row) for row in plan_rows(lengths, row_tokens, 1)[0]]
    assert len(rows) <= 2 * -(-sum(lengths) // row_tokens) + 1
    assert len(plan_rows(lengths, row_tokens, ranks)[0]) == -(-len(rows) // ranks)


@given(LENGTHS, st.integers(1, 9))
def test_ranks_share_the_tokens_when_rows_have_room(lengths: list[int], ranks: int) -> None:
    dealt = plan_rows(lengths, 64 * 60, ranks)
    loads = [sum(lengths[i] for row in rank for i in row) for rank in dealt]
    assert max(loads) - min(loads) <= max(lengths, default=0)


def test_the_plan_is_the_same_on_every_call() -> None:
    lengths = [7, 3, 9, 9, 1, 4, 4, 12]
    assert plan_rows(lengths, 16, 2) == plan_rows(list(lengths), 16, 2)


def test_a_sample_longer_than_a_row_is_refused() -> None:
    with pytest.raises(ValueError, match="9 tokens does not fit a row of 8"):
        plan_rows([3, 9], 8, 1)


def test_no_samples_give_every_rank_one_empty_row() -> None:
    assert plan_rows([], 8, 3) == [[[]], [[]], [[]]]
