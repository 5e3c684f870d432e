# SPDX-License-Identifier: Apache-2.0
"""Units as a token index holds them."""

from steerlm.training.data import Unit
from steerlm.training.dataset import TokenDataset


def read_unit(data: TokenDataset, index: int) -> Unit:
    samples = tuple(data.sample(sample) for sample in data.samples(index))
    return Unit(samples, "row" if data.in_one_row(index) else "step")
