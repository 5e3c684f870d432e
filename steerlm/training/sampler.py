# SPDX-License-Identifier: Apache-2.0
"""Which units a step trains on: an order that depends only on the seed and on how many units were consumed."""

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from steerlm.errors import ConfigError
from steerlm.training.config import TrainSettings

Indices = npt.NDArray[np.int64]


@dataclass
class Sampler:
    """Yields indices of `size` units in one random order per epoch; a batch may span two epochs.

    Its state is (seed, consumed), so the order depends neither on batch sizes nor on the number of processes.

    >>> sampler = Sampler(size=3, seed=1)
    >>> order = sampler.take(3).tolist()
    >>> sorted(order), Sampler(size=3, seed=1, consumed=1).take(2).tolist() == order[1:]
    ([0, 1, 2], True)
    """

    size: int
    seed: int
    consumed: int = 0
    _epoch: int = field(default=-1, init=False, repr=False)
    _order: Indices = field(default_factory=lambda: np.empty(0, np.int64), init=False, repr=False)

    def take(self, count: int) -> Indices:
        """Return the next `count` unit indices, [count] int64."""
        parts = []
        while count > 0:
            epoch, start = divmod(self.consumed, self.size)
            part = self._permutation(epoch)[start : start + count]
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
    """Return the number of updates, and how many units of the epochs are left over because they fill no global batch.

    Raises `ConfigError` if the epochs hold less than one global batch.

    >>> total_steps(TrainSettings(epochs=2.5, global_batch=4), units=18)
    (11, 1)
    """
    if settings.epochs is None:
        assert settings.max_steps is not None, "TrainSettings requires one of the two"
        return settings.max_steps, 0
    available = math.floor(settings.epochs * units + 1e-9)
    steps = available // settings.global_batch
    if settings.max_steps is not None and settings.max_steps <= steps:
        return settings.max_steps, 0
    if steps == 0:
        raise ConfigError(
            f"{settings.epochs:g} epochs of {units} units hold no global batch of {settings.global_batch}; "
            "give more epochs, a smaller global_batch or more data"
        )
    return steps, available - steps * settings.global_batch
