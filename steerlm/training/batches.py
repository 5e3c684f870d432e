# SPDX-License-Identifier: Apache-2.0
"""The rows of one global batch: planned from lengths alone, then read for this rank only. Independent of any model."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from steerlm.errors import ConfigError
from steerlm.training.data import Row
from steerlm.training.dataset import TokenDataset
from steerlm.training.engine import Layout
from steerlm.training.packing import padded_length, plan_rows


@dataclass(frozen=True, slots=True)
class ReplicaLoad:
    """What one replica computes in a step.

    `computed`: tokens with padding. `squares`: sum of the squared lengths of its samples, which attention costs.
    """

    computed: int
    squares: int


@dataclass(frozen=True, slots=True)
class Batch:
    """This rank's rows, and totals of the whole global batch.

    `count`: the loss's denominator. `tokens`: without padding. `loads`: one per replica.
    """

    rows: list[Row]
    count: int
    tokens: int
    loads: list[ReplicaLoad]

    @property
    def computed(self) -> int:
        """Tokens of the global batch, with padding."""
        return sum(load.computed for load in self.loads)


def build_batch(data: TokenDataset, units: Sequence[int], row_tokens: int, layout: Layout) -> Batch:
    """Pack `units` into rows of at most `row_tokens` tokens. Every rank plans the same and reads its share."""
    items: list[list[int]] = []  # samples that must share a row
    for unit in units:
        samples = list(data.samples(unit))
        items += [samples] if data.in_one_row(unit) else [[s] for s in samples]
    sample_lengths = [data.lengths[item].astype(np.int64) for item in items]
    lengths = [int(each.sum()) for each in sample_lengths]
    planned = plan_rows(lengths, row_tokens, layout.dp_size)
    rows = [_read_row(data, [items[item] for item in row]) for row in planned[layout.dp_rank]]
    loads = []
    for replica in planned:
        filled = [sum(lengths[item] for item in row) for row in replica]
        multiple = layout.padding(filled)
        squares = sum(int(sample_lengths[item] @ sample_lengths[item]) for row in replica for item in row)
        loads.append(ReplicaLoad(sum(padded_length(tokens, multiple) for tokens in filled), squares))
    count = int(data.denominators[[sample for item in items for sample in item]].sum())
    return Batch(rows, count, sum(lengths), loads)


def _read_row(data: TokenDataset, items: Sequence[Sequence[int]]) -> Row:
    """Read the samples of a row, each item as one unit."""
    samples = tuple(data.sample(sample) for item in items for sample in item)
    return Row(samples, tuple(itertools.accumulate(len(item) for item in items)))


def validation_batches(data: TokenDataset, global_batch: int, limit: int | None) -> Iterator[range]:
    """Yield the units of each global batch of a validation, in file order; the last batch may be smaller.

    `limit`: most batches; None for all.
    """
    for number, start in enumerate(range(0, len(data), global_batch)):
        if limit is not None and number >= limit:
            return
        yield range(start, min(start + global_batch, len(data)))


def check_fits(data: TokenDataset, row_tokens: int) -> None:
    """Raise `ConfigError` if a sample, or a unit that must share a row, is longer than `row_tokens`."""
    longest = data.longest()
    if longest > row_tokens:
        raise ConfigError(
            f"the longest sample has {longest} tokens, the layout's rows hold {row_tokens}; "
            "raise row_tokens (at most micro_batch x window) or lower the window"
        )
