# SPDX-License-Identifier: Apache-2.0
"""Random weights of a new model: a weight depends on the seed and its name only, not on the layout."""

import hashlib

import torch

from steerlm.megatron.mapping import Slice
from steerlm.models.tensors import SCORE


class RandomWeights:
    """A source of weights: norms are one, biases zero, matrices normal(0, std).

    One whole tensor at a time, on the CPU in fp32.
    """

    def __init__(self, seed: int, std: float, head_std: float) -> None:
        self.seed, self.std, self.head_std = seed, std, head_std

    def read(self, part: Slice) -> torch.Tensor:
        """Draw the whole tensor and return the requested slice, on the CPU in fp32."""
        if len(part.shape) == 1:
            size = part.rows
            return torch.zeros(size) if part.name.endswith(".bias") else torch.ones(size)
        digest = hashlib.sha256(f"{self.seed}/{part.name}".encode()).digest()
        generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        std = self.head_std if part.name == SCORE else self.std
        whole = torch.empty(part.shape).normal_(0.0, std, generator=generator)
        return whole if part.dim is None else whole.narrow(part.dim, part.start, part.stop - part.start)
