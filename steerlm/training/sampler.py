# SPDX-License-Identifier: Apache-2.0
"""Which units a step takes: an order that depends on the seed and the units consumed so far, and on nothing else."""

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from steerlm.errors import ConfigError
from steerlm.training.config import TrainSettings

Indices = npt.NDArray[np.int64]


@dataclass
class Sampler:
    """Yields indices of `size` units, one random order per epoch, epoch after epoch without a seam.

    State is (seed, consumed): what is taken next never depends on batch sizes or on how many processes there are.
    """

    size: int
    seed: int
    consumed: int = 0
    _epoch: int = field(default=-1, init=False, repr=False)
    _order: Indices = field(default_factory=lambda: np.empty(0, np.int64), init=False, repr=False)

    def take(self, count: int) -> Indices:
        """The next `count` unit indices [count] int64."""
        parts = []
        while count > 0:
            epoch, at = divmod(self.consumed, self.size)
            part = self._permutation(epoch)[at : at + count]
            parts.append(part)
            self.consumed += len(part)
            count -= len(part)
        return np.concatenate(parts)

    def _permutation(self, epoch: int) -> Indices:
        if epoch != self._epoch:
            # Raw words of a bit generator are the same in every numpy version; its shuffles need not be.
            words = np.random.PCG64(np.random.SeedSequence([self.seed, epoch])).random_raw(self.size)
            self._epoch, self._order = epoch, np.argsort(words, kind="stable").astype(np.int64)
        return self._order


def total_steps(settings: TrainSettings, units: int) -> tuple[int, int]:
    """(number of updates, units that the epochs asked for but no whole global batch takes).

    Raises `ConfigError` if the epochs hold less than one global batch.
    """
    if settings.epochs is None:
        assert settings.max_steps is not None, "TrainSettings asks for one of the two"
        return settings.max_steps, 0
    asked = math.floor(settings.epochs * units + 1e-9)
    steps = asked // settings.global_batch
    if settings.max_steps is not None and settings.max_steps <= steps:
        return settings.max_steps, 0
    if steps == 0:
        raise ConfigError(
            f"{settings.epochs:g} epochs of {units} units hold no global batch of {settings.global_batch}; "
            "give more epochs, a smaller global_batch or more data"
        )
    return steps, asked - steps * settings.global_batch
