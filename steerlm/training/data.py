# SPDX-License-Identifier: Apache-2.0
"""What flows from a record to the loss: `Sample`, `Unit`, `Row` and `RowTensors`.

A record becomes units of samples; a step packs samples into rows; a row becomes tensors on a device. Data only: packing
is in `packing.py`, the conversion in `tensors.py`. Imports no torch.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Sample:
    """One text of at most `window` tokens.

    Attributes:
        ids: Token ids, [n] int32.
        weights: Loss weight of predicting each token from the tokens before it, [n] fp32. `weights[0]` is 0; all are 0
            for a reward sample.
        labels: Targets at the read-out position, the last token, [attributes] fp32; None without them.
        count: What the sample adds to the loss's denominator: learned tokens, labels, or 1 for a conversation.
    """

    ids: Ints
    weights: Floats
    labels: Floats | None = None
    count: int = 1


@dataclass(frozen=True, slots=True)
class Unit:
    """Samples of one record that the sampler yields as one and never splits over steps.

    `together`: whether they also share a row ("row"), or only a step ("step").
    """

    samples: tuple[Sample, ...]
    together: Literal["row", "step"] = "step"


@dataclass(frozen=True, slots=True)
class Row:
    """Whole samples, one after another: one micro-batch. Each is a segment of its own; attention does not cross it.

    An empty row is computed like any other and adds nothing to the loss.

    Attributes:
        samples: In order; the samples of a unit that is kept in one row are adjacent.
        unit_ends: For each unit, the index after its last sample. A unit that is only kept in one step counts as one
            unit per sample here. Left out: every sample is a unit of its own.

    >>> pair = Sample(np.array([1, 2]), np.zeros(2)), Sample(np.array([1, 3]), np.zeros(2))
    >>> Row(pair).unit_ends, Row(pair, unit_ends=(2,)).unit_ends
    ((1, 2), (2,))
    """

    samples: tuple[Sample, ...] = ()
    unit_ends: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        ends, size = self.unit_ends, len(self.samples)
        if not ends:
            object.__setattr__(self, "unit_ends", tuple(range(1, size + 1)))
        elif ends[-1] != size or any(end <= start for start, end in zip((0, *ends), ends, strict=False)):
            raise ValueError(f"unit_ends {ends} do not divide {size} samples: they must rise from 1 to {size}")

    @property
    def tokens(self) -> int:
        """Tokens of all samples, without padding."""
        return sum(len(s.ids) for s in self.samples)

    @property
    def count(self) -> int:
        """What the row adds to the loss's denominator."""
        return sum(s.count for s in self.samples)


@dataclass(frozen=True, slots=True)
class RowTensors:
    """A row on the device, padded by a tail segment of weight 0. T: tokens with padding, K: samples, U: units.

    Attributes:
        tokens: Token ids, [T] int64.
        positions: Position of each token in its segment, from 0, [T] int64.
        cu_seqlens: Where segments begin and the last one ends, tail included, [segments + 1] int32.
        targets: The next token of the same segment, [T] int64; 0 at a segment's last token.
        weights: Loss weight of `targets`, [T] fp32.
        learned: Positions whose weight is not 0, [L] int64; position 0 if all are.
        readouts: Position of each sample's last token, [K] int64.
        sample_of: Which sample a token belongs to, [T] int64; K for the tail.
        unit_ends: For each unit, the index after its last sample, [U] int64.
        lengths: Tokens of each segment, tail included; on the host.
        count: What the row adds to the loss's denominator; on the host.
        labels: Targets at the read-outs, [K, attributes] fp32, masked where a sample has none; None for text.
    """

    tokens: "torch.Tensor"
    positions: "torch.Tensor"
    cu_seqlens: "torch.Tensor"
    targets: "torch.Tensor"
    weights: "torch.Tensor"
    learned: "torch.Tensor"
    readouts: "torch.Tensor"
    sample_of: "torch.Tensor"
    unit_ends: "torch.Tensor"
    lengths: tuple[int, ...]
    count: int
    labels: "torch.Tensor | None" = None
