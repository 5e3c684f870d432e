# SPDX-License-Identifier: Apache-2.0
"""Units of records, and units as a token index holds them."""

from collections.abc import Sequence
from typing import Any

from steerlm.training.data import Unit
from steerlm.training.dataset import TokenDataset
from steerlm.training.objectives.tokens import TextRecords


def record_units(objective: TextRecords, record: Any) -> Sequence[Unit]:
    """Return the units that `objective` makes of one record."""
    (units,) = objective.units([record])
    return units


def read_unit(data: TokenDataset, index: int) -> Unit:
    samples = tuple(data.sample(sample) for sample in data.samples(index))
    return Unit(samples, "row" if data.in_one_row(index) else "step")
