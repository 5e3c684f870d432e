# SPDX-License-Identifier: Apache-2.0
"""The learning rate of a step: warm-up, cosine, minimum, as in NeMo: `docs/upstream.md#optimizer-and-schedule`."""

import math

from steerlm.errors import ConfigError
from steerlm.training.config import OptimizerSettings, TrainSettings
from steerlm.training.sampler import total_steps


def check_steps(settings: TrainSettings, units: int) -> None:
    """Raise `ConfigError` if that many units make no step, or fewer steps than the schedule needs."""
    steps, _ = total_steps(settings, units)
    learning_rate(settings.optimizer, 0, steps)


def learning_rate(settings: OptimizerSettings, step: int, max_steps: int) -> float:
    """Return the learning rate of update `step`, counted from 0; beyond `max_steps` it is `min_lr`.

    With W warm-up steps and no constant ones: lr (s+1) / (W+1) up to s = W, then half a cosine that ends at max_steps.
    With C constant steps: lr s / W up to s = W (the first update has rate 0), half a cosine over max_steps - W - C
    steps, then min_lr. Raises `ConfigError` if warm-up and constant steps leave no step for the cosine.

    >>> [round(learning_rate(OptimizerSettings(lr=6e-6, min_lr=5e-6, warmup_steps=1, constant_steps=200), s, 800), 10)
    ...  for s in (0, 1, 300, 600)]
    [0.0, 6e-06, 5.5013e-06, 5e-06]
    """
    lr, low, warmup, constant = settings.lr, settings.min_lr, settings.warmup_steps, settings.constant_steps
    decay = max_steps - warmup - constant
    if constant and decay <= 0:
        raise ConfigError(
            f"warmup_steps {warmup} + constant_steps {constant} leave no step of {max_steps} for the schedule's decay"
        )
    if warmup and step <= warmup:
        return lr * step / warmup if constant else lr * (step + 1) / (warmup + 1)
    if step >= warmup + decay:
        return low
    return low + (lr - low) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / decay))
