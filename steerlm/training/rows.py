"""Samples, rows and the plan that packs one global batch into rows for every data-parallel rank.

Knows token ids and lengths; nothing of models, files or processes. A row holds whole samples one after another; each is
a segment with positions from 0, and attention does not cross segments. One row is one micro-batch.
"""

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


def plan(lengths: Sequence[int], row_tokens: int, dp_size: int) -> list[list[list[int]]]:
    """Pack samples into rows and deal the rows to ranks: `plan(...)[rank][row]` lists indices into `lengths`.

    Pure, so that every rank computes the same plan. Best-fit decreasing; ranks get equally many rows (the last ones may
    be empty) and, greedily, equally many tokens. Raises ValueError for a sample longer than `row_tokens`.

    >>> plan([3, 5, 2, 6], row_tokens=8, dp_size=2)
    [[[3, 2]], [[1, 0]]]
    """
    if lengths and max(lengths) > row_tokens:
        raise ValueError(f"a sample of {max(lengths)} tokens does not fit a row of {row_tokens}")
    rows: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        fits = [r for r in range(len(rows)) if room[r] >= lengths[i]]
        if fits:
            best = min(fits, key=lambda r: (room[r], r))
        else:
            best = len(rows)
            rows.append([])
            room.append(row_tokens)
        rows[best].append(i)
        room[best] -= lengths[i]
    per_rank = max(1, -(-len(rows) // dp_size))
    dealt: list[list[list[int]]] = [[] for _ in range(dp_size)]
    load = [0] * dp_size
    for r in sorted(range(len(rows)), key=lambda r: (room[r], r)):
        rank = min((k for k in range(dp_size) if len(dealt[k]) < per_rank), key=lambda k: (load[k], k))
        dealt[rank].append(rows[r])
        load[rank] += row_tokens - room[r]
    for mine in dealt:
        mine.extend([] for _ in range(per_rank - len(mine)))
    return dealt
