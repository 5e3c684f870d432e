# SPDX-License-Identifier: Apache-2.0
"""Rows of samples: where their units end, and what they add up to."""

import numpy as np
import pytest

from steerlm.training.data import Row, Sample


def sample(length: int, count: int = 1) -> Sample:
    return Sample(np.ones(length, np.int32), np.zeros(length, np.float32), count=count)


def test_every_sample_is_a_unit_unless_the_row_says_otherwise() -> None:
    samples = tuple(sample(n) for n in (3, 4, 5))
    assert Row().unit_ends == () and Row(samples).unit_ends == (1, 2, 3)
    assert Row(samples, (2, 3)).unit_ends == (2, 3)


@pytest.mark.parametrize("ends", [(1,), (3,), (2, 2), (0, 2), (2, 1)])
def test_units_must_divide_the_samples(ends: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="do not divide 2 samples"):
        Row((sample(3), sample(4)), ends)


def test_a_row_adds_up_its_samples() -> None:
    row = Row((sample(3, count=2), sample(4, count=3)))
    assert (row.tokens, row.count) == (7, 5) and (Row().tokens, Row().count) == (0, 0)
