# SPDX-License-Identifier: Apache-2.0
"""The loss of language modeling objectives: weighted negative log-likelihood of tokens, and its perplexity."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from steerlm.training.data import RowTensors
from steerlm.training.engine import Statistics

if TYPE_CHECKING:
    import torch

LARGEST_EXPONENT = 700.0  # exp of more overflows fp64


class Likelihood:
    """Loss on log-probabilities [T] fp32 of `row.targets`; a token's weight already includes its sample's share."""

    output: Literal["logprobs"] = "logprobs"

    def loss(self, output: "torch.Tensor", row: RowTensors) -> tuple["torch.Tensor", int, Statistics]:
        """Return -sum(weight * log-probability), the row's denominator, and the unweighted sum over learned tokens."""
        import torch  # imported here: building a token index does not need torch

        learned = row.weights != 0
        with torch.no_grad():
            # where, not a product: an unlearned token's log-probability may be infinite
            nll = -torch.where(learned, output.double(), 0).sum()
            statistics = {"nll": nll, "tokens": learned.sum().double()}
        return -torch.where(learned, output * row.weights, 0).sum(), row.count, statistics

    def summarize(self, statistics: Mapping[str, "torch.Tensor"]) -> dict[str, float]:
        """Return the mean negative log-likelihood per learned token (nats), its perplexity and the learned tokens."""
        tokens = float(statistics["tokens"])
        if tokens == 0:
            return {"learned_tokens": 0.0}
        nll = float(statistics["nll"]) / tokens
        return {"token_nll": nll, "perplexity": math.exp(min(nll, LARGEST_EXPONENT)), "learned_tokens": tokens}
