# SPDX-License-Identifier: Apache-2.0
"""The loss of objectives that learn to write: weighted negative log-likelihood of tokens, and its perplexity."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from steerlm.training.data import RowTensors
from steerlm.training.engine import Statistics

if TYPE_CHECKING:
    import torch

LARGEST_EXPONENT = 700.0  # exp of more overflows fp64


class Likelihood:
    """`output` [T] fp32: log-probability of `row.targets`; the weight of a token already holds its sample's share."""

    output: Literal["logprobs"] = "logprobs"

    def loss(self, output: "torch.Tensor", row: RowTensors) -> tuple["torch.Tensor", int, Statistics]:
        """-sum(weight * log-probability), the row's denominator, and the unweighted sum over learned tokens."""
        import torch  # not above: whoever builds a token index need not have it

        learned = row.weights != 0
        with torch.no_grad():
            # where, not a product: what the model says of an unlearned token may be infinite
            nll = -torch.where(learned, output.double(), 0).sum()
            statistics = {"nll": nll, "tokens": learned.sum().double()}
        return -torch.where(learned, output * row.weights, 0).sum(), row.count, statistics

    def summarise(self, statistics: Mapping[str, "torch.Tensor"]) -> dict[str, float]:
        """Mean negative log-likelihood per learned token (nats), its perplexity, and the number of learned tokens."""
        tokens = float(statistics["tokens"])
        if tokens == 0:
            return {"learned_tokens": 0.0}
        nll = float(statistics["nll"]) / tokens
        return {"token_nll": nll, "perplexity": math.exp(min(nll, LARGEST_EXPONENT)), "learned_tokens": tokens}
