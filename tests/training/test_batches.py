# SPDX-License-Identifier: Apache-2.0
"""A global batch as rows: the same samples on every layout, and the exact number of computed tokens."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from steerlm.errors import ConfigError
from steerlm.training.batches import build_batch, check_fits, validation_batches
from steerlm.training.config import TextSettings
from steerlm.training.data import Unit
from steerlm.training.dataset import TokenDataset
from steerlm.training.engine import Layout
from steerlm.training.objectives.text import TextObjective
from tests.training.units import read_unit


@pytest.fixture
def data(tokenizer: Any, jsonl: Callable[..., Path], tmp_path: Path) -> TokenDataset:
    lines = [{"text": "x" * (1 + 7 * i % 12)} for i in range(11)]
    return TokenDataset.build([jsonl("d.jsonl", *lines)], TextObjective(TextSettings(max_steps=1), tokenizer), tmp_path)


@pytest.mark.parametrize(("ranks", "row_tokens", "multiple"), [(1, 16, 1), (2, 16, 4), (3, 64, 8), (16, 64, 2)])
def test_all_ranks_together_have_the_batch(data: TokenDataset, ranks: int, row_tokens: int, multiple: int) -> None:
    units = [3, 9, 1, 4, 10]
    parts = [build_batch(data, units, row_tokens, Layout(rank, ranks, multiple)) for rank in range(ranks)]
    ids = sorted(sample.ids.tolist() for part in parts for row in part.rows for sample in row.samples)
    assert ids == sorted(read_unit(data, u).samples[0].ids.tolist() for u in units)
    assert len({len(part.rows) for part in parts}) == 1
    assert {part.tokens for part in parts} == {sum(map(len, ids))}
    assert {part.count for part in parts} == {sum(row.count for part in parts for row in part.rows)}
    padded = sum(max(multiple, -(-row.tokens // multiple) * multiple) for part in parts for row in part.rows)
    assert {part.computed for part in parts} == {padded}
    for part in parts:
        squares = [sum(len(s.ids) ** 2 for row in of.rows for s in row.samples) for of in parts]
        assert [load.squares for load in part.loads] == squares


def test_equal_rows_are_padded_to_the_longest_of_their_replica(data: TokenDataset) -> None:
    parts = [build_batch(data, range(7), 13, Layout(rank, 2, 4, equal_rows=True)) for rank in range(2)]
    assert [[row.tokens for row in part.rows] for part in parts] == [[13, 8, 6], [11, 9, 6]]
    assert [part.computed for part in parts] == [3 * 16 + 3 * 12] * 2


def test_samples_of_a_unit_share_a_row(tokenizer: Any, jsonl: Callable[..., Path], tmp_path: Path) -> None:
    class Pairs(TextObjective):
        def units(self, records: Iterable[Any]) -> Iterator[list[Unit]]:
            for units in super().units(records):
                yield [Unit(units[0].samples * 2, "row")]

    lines = [{"text": "x" * n} for n in (3, 5, 4, 6)]
    pairs = TokenDataset.build(
        [jsonl("p.jsonl", *lines)], Pairs(TextSettings(max_steps=1, window=8), tokenizer), tmp_path
    )
    rows = [row for rank in range(2) for row in build_batch(pairs, range(4), 16, Layout(rank, 2)).rows]
    lengths = [sorted(len(sample.ids) for sample in row.samples) for row in rows]
    assert all(row.count(n) in (0, 2) for row in lengths for n in (4, 6, 5, 7))
    assert all(row.unit_ends == tuple(range(2, len(row.samples) + 1, 2)) for row in rows)
    for row in rows:
        chosen, rejected = row.samples[::2], row.samples[1::2]
        assert [a.ids.tolist() for a in chosen] == [b.ids.tolist() for b in rejected]

    with pytest.raises(ConfigError, match="longest sample has 14 tokens, the layout's rows hold 13"):
        check_fits(pairs, 13)
    check_fits(pairs, 14)


def test_units_that_only_share_a_step_end_after_each_sample(
    tokenizer: Any, jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    class Groups(TextObjective):
        def units(self, records: Iterable[Any]) -> Iterator[list[Unit]]:
            for units in super().units(records):
                yield [Unit(units[0].samples * 3)]

    groups = TokenDataset.build(
        [jsonl("g.jsonl", {"text": "abc"})], Groups(TextSettings(max_steps=1), tokenizer), tmp_path
    )
    (row,) = build_batch(groups, [0], 64, Layout()).rows
    assert row.unit_ends == (1, 2, 3)


def test_validation_reads_in_order_and_keeps_the_last_partial_batch(data: TokenDataset) -> None:
    assert [list(b) for b in validation_batches(data, 4, None)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    assert [list(b) for b in validation_batches(data, 4, 1)] == [[0, 1, 2, 3]]
