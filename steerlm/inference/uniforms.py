# SPDX-License-Identifier: Apache-2.0
"""The random numbers of offline generation."""

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def uniforms(prompts: Sequence[str], n: int, steps: int, seed: int) -> npt.NDArray[np.float64]:
    """Return [prompts * n, steps] numbers in [0, 1) that select the tokens, prompt by prompt.

    They depend on the seed, the prompt's text, how often it occurred before, and the sample's number: a prompt gets the
    same answers alone, in another order and in another batch, and a repeated prompt gets new ones.
    """
    seen: Counter[str] = Counter()
    table = np.empty((len(prompts) * n, steps))
    for p, prompt in enumerate(prompts):
        key = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8], "big")
        for k in range(n):
            table[p * n + k] = np.random.default_rng(entropy(seed, key, seen[prompt], k)).random(steps)
        seen[prompt] += 1
    return table


def entropy(seed: int, *parts: int) -> list[int]:
    """Return what to seed a generator with that belongs to any integer `seed` and to `parts`, which are at least 0."""
    return [abs(seed), *parts, *([1] if seed < 0 else [])]
