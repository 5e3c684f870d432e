# SPDX-License-Identifier: Apache-2.0
"""The rows of one global batch: plans them from lengths alone, then reads only those of this rank. Pure of models."""

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
class Load:
    """What a replica computes in a step: tokens with their padding, and, for attention, its samples' squared lengths
    summed."""

    computed: int
    squares: int


@dataclass(frozen=True, slots=True)
class Batch:
    """This rank's rows; of the whole global batch, the loss's denominator, its tokens, and the load of each replica."""

    rows: list[Row]
    count: int
    tokens: int
    loads: list[Load]

    @property
    def computed(self) -> int:
        """Tokens of the global batch, with padding."""
        return sum(load.computed for load in self.loads)


def batch(data: TokenDataset, units: Sequence[int], row_tokens: int, layout: Layout) -> Batch:
    """Pack `units` into rows of at most `row_tokens` tokens. Every rank plans the same and takes its share."""
    items: list[list[int]] = []
    for unit in units:
        samples = list(data.samples(unit))
        items += [samples] if data.in_one_row(unit) else [[s] for s in samples]
    of_samples = [data.lengths[item].astype(np.int64) for item in items]
    lengths = [int(each.sum()) for each in of_samples]
    planned = plan_rows(lengths, row_tokens, layout.dp_size)
    rows = [_row(data, [items[item] for item in row]) for row in planned[layout.dp_rank]]
    loads = []
    for replica in planned:
        filled = [sum(lengths[item] for item in row) for row in replica]
        multiple = layout.padding(filled)
        squares = sum(int(of_samples[item] @ of_samples[item]) for row in replica for item in row)
        loads.append(Load(sum(padded_length(tokens, multiple) for tokens in filled), squares))
    count = int(data.denominators[[sample for item in items for sample in item]].sum())
    return Batch(rows, count, sum(lengths), loads)


def _row(data: TokenDataset, items: Sequence[Sequence[int]]) -> Row:
    """Read the samples of a row; each item is a unit."""
    samples = tuple(data.sample(sample) for item in items for sample in item)
    return Row(samples, tuple(itertools.accumulate(len(item) for item in items)))


def in_order(data: TokenDataset, global_batch: int, limit: int | None) -> Iterator[range]:
    """A validation's global batches: units in the order of the file, the last batch as small as it is."""
    for number, start in enumerate(range(0, len(data), global_batch)):
        if limit is not None and number >= limit:
            return
        yield range(start, min(start + global_batch, len(data)))


def check_fits(data: TokenDataset, row_tokens: int) -> None:
    """Raises `ConfigError` if something that may not be split is longer than a row may be."""
    longest = data.longest()
    if longest > row_tokens:
        raise ConfigError(
            f"the longest sample has {longest} tokens, the layout's rows hold {row_tokens}; "
            "raise row_tokens (at most micro_batch x window) or lower the window"
        )
