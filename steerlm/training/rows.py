# SPDX-License-Identifier: Apache-2.0
"""Samples, rows and the plan that packs one global batch into rows for every data-parallel rank.

Knows token ids and lengths; nothing of models, files or processes. A row holds whole samples one after another; each is
a segment with positions from 0, and attention does not cross segments. One row is one micro-batch.
"""

import bisect
import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Sample:
    """One text of at most `window` tokens.

    `weights` [n] fp32: loss weight of predicting token t from the tokens before it (`weights[0]` is 0); all zero for a
    reward sample. `labels` [attributes] fp32 or None: target at the read-out position, the last token.
    `count`: what the sample adds to the loss's denominator (learned tokens, 1 conversation, or labels).
    """

    ids: Ints
    weights: Floats
    labels: Floats | None = None
    count: int = 1


@dataclass(frozen=True, slots=True)
class Row:
    """Whole samples, one after another; an empty row takes part in a step without contributing."""

    samples: tuple[Sample, ...] = field(default=())

    @property
    def tokens(self) -> int:
        return sum(len(s.ids) for s in self.samples)

    @property
    def count(self) -> int:
        return sum(s.count for s in self.samples)


def padded(tokens: int, multiple: int) -> int:
    """Tokens that a row of `tokens` is computed with: rounded up to `multiple`, and for an empty row one `multiple`."""
    return max(1, -(-tokens // multiple)) * multiple


def plan(lengths: Sequence[int], row_tokens: int, dp_size: int) -> list[list[list[int]]]:
    """Pack samples into rows and deal the rows to ranks: `plan(...)[rank][row]` lists indices into `lengths`.

    Pure, so that every rank computes the same plan. Best-fit decreasing says how few rows suffice; rounded up to a
    multiple of `dp_size`, that many rows share the tokens evenly, so that no rank waits for another while they fit.
    Ranks get equally many rows (some may be empty). Raises ValueError for a sample longer than `row_tokens`.

    >>> plan([3, 5, 2, 6], row_tokens=8, dp_size=2)
    [[[3, 2]], [[1, 0]]]
    """
    if lengths and max(lengths) > row_tokens:
        raise ValueError(f"a sample of {max(lengths)} tokens does not fit a row of {row_tokens}")
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    tight = _fewest(order, lengths, row_tokens)
    per_rank = max(1, -(-len(tight) // dp_size))
    rows = _even(order, lengths, row_tokens, per_rank * dp_size) or tight
    loads = [sum(lengths[i] for i in row) for row in rows]
    dealt: list[list[list[int]]] = [[] for _ in range(dp_size)]
    waiting = [(0, rank) for rank in range(dp_size)]  # (tokens, rank) of the ranks that still take rows
    for row in sorted(range(len(rows)), key=lambda r: (-loads[r], r)):
        tokens, rank = heapq.heappop(waiting)
        dealt[rank].append(rows[row])
        if len(dealt[rank]) < per_rank:
            heapq.heappush(waiting, (tokens + loads[row], rank))
    for mine in dealt:
        mine.extend([] for _ in range(per_rank - len(mine)))
    return dealt


def _fewest(order: Sequence[int], lengths: Sequence[int], row_tokens: int) -> list[list[int]]:
    """Best-fit decreasing: each sample goes where it leaves the least room."""
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


def _even(order: Sequence[int], lengths: Sequence[int], row_tokens: int, count: int) -> list[list[int]] | None:
    """Each sample, longest first, to the emptiest of `count` rows; None if one would overflow."""
    rows: list[list[int]] = [[] for _ in range(count)]
    loads = [(0, row) for row in range(count)]
    for i in order:
        load, row = heapq.heappop(loads)
        if load + lengths[i] > row_tokens:
            return None
        rows[row].append(i)
        heapq.heappush(loads, (load + lengths[i], row))
    return rows
