# SPDX-License-Identifier: Apache-2.0
"""Packing a global batch into rows for every data-parallel rank, from lengths alone. Pure arithmetic."""

import bisect
import heapq
from collections.abc import Sequence


def padded_length(tokens: int, multiple: int) -> int:
    """Return `tokens` rounded up to a multiple of `multiple`, which must be positive; an empty row is padded to one.

    >>> [padded_length(tokens, 4) for tokens in (0, 4, 5)]
    [4, 4, 8]
    """
    return max(1, -(-tokens // multiple)) * multiple


def plan_rows(lengths: Sequence[int], row_tokens: int, dp_size: int) -> list[list[list[int]]]:
    """Pack samples into rows and deal the rows to data-parallel ranks.

    Deterministic, so that every rank computes the same plan by itself. Best-fit decreasing gives the number of rows,
    rounded up to a multiple of `dp_size`; where they fit, the tokens are then spread evenly over that many rows, so
    that ranks do not wait for each other.

    Args:
        lengths: Tokens of each sample, or of samples that must share a row.
        row_tokens: Most tokens of a row.
        dp_size: Number of ranks.

    Returns:
        `rows[rank][row]`, indices into `lengths`. All ranks have equally many rows, some of which may be empty.

    Raises:
        ValueError: A sample is longer than `row_tokens`.

    >>> plan_rows([3, 5, 2, 6], row_tokens=8, dp_size=2)
    [[[3, 2]], [[1, 0]]]
    >>> plan_rows([3, 5, 2], row_tokens=8, dp_size=4)
    [[[1]], [[0]], [[2]], [[]]]
    """
    if lengths and max(lengths) > row_tokens:
        raise ValueError(f"a sample of {max(lengths)} tokens does not fit a row of {row_tokens}")
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    tight = _best_fit(order, lengths, row_tokens)
    per_rank = max(1, -(-len(tight) // dp_size))
    rows = _spread(order, lengths, row_tokens, per_rank * dp_size) or tight
    loads = [sum(lengths[i] for i in row) for row in rows]
    dealt: list[list[list[int]]] = [[] for _ in range(dp_size)]
    open_ranks = [(0, rank) for rank in range(dp_size)]  # (tokens, rank) of ranks with room for more rows
    for row in sorted(range(len(rows)), key=lambda r: (-loads[r], r)):
        tokens, rank = heapq.heappop(open_ranks)
        dealt[rank].append(rows[row])
        if len(dealt[rank]) < per_rank:
            heapq.heappush(open_ranks, (tokens + loads[row], rank))
    for rank_rows in dealt:
        rank_rows.extend([] for _ in range(per_rank - len(rank_rows)))
    return dealt


def _best_fit(order: Sequence[int], lengths: Sequence[int], row_tokens: int) -> list[list[int]]:
    """Put each sample into the row in which it leaves the least room, or into a new one."""
    rows: list[list[int]] = []
    by_room: list[tuple[int, int]] = []  # (room, row), sorted: the first that is large enough is the best fit
    for i in order:
        at = bisect.bisect_left(by_room, (lengths[i], -1))
        if at == len(by_room):
            by_room.append((row_tokens, len(rows)))
            rows.append([])
        room, row = by_room.pop(at)
        rows[row].append(i)
        bisect.insort(by_room, (room - lengths[i], row))
    return rows


def _spread(order: Sequence[int], lengths: Sequence[int], row_tokens: int, count: int) -> list[list[int]] | None:
    """Put each sample, longest first, into the emptiest of `count` rows; None if one would overflow."""
    rows: list[list[int]] = [[] for _ in range(count)]
    loads = [(0, row) for row in range(count)]
    for i in order:
        load, row = heapq.heappop(loads)
        if load + lengths[i] > row_tokens:
            return None
        rows[row].append(i)
        heapq.heappush(loads, (load + lengths[i], row))
    return rows
