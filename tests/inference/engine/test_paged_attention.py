# SPDX-License-Identifier: Apache-2.0
"""Paged attention equals attention of each request alone, over chunks and pages."""

from types import SimpleNamespace
from typing import Any

import torch
from transformers.generation.continuous_batching import PagedAttentionCache

from steerlm.inference.engine.paged_attention import paged_attention


class Growing(PagedAttentionCache):  # type: ignore[misc]
    """A cache that concatenates the keys and values of each request."""

    def __init__(self, requests: int) -> None:
        self.held: list[list[torch.Tensor]] = [[], []]
        self.lengths = [0] * requests
        self.rows: list[list[torch.Tensor]] = [[torch.empty(1, 2, 0, 4)] * requests for _ in range(2)]

    def update(self, key_states: Any, value_states: Any, layer_idx: int, kwargs: dict[str, Any]) -> Any:
        at = kwargs["cu_seq_lens_q"].tolist()
        for rows, new in zip(self.rows, (key_states, value_states), strict=True):
            for r in range(len(rows)):
                rows[r] = torch.cat([rows[r], new[:, :, at[r] : at[r + 1]]], dim=2)
        lengths = torch.tensor([0, *(row.shape[2] for row in self.rows[0])])
        kwargs["cu_seq_lens_k"] = lengths.cumsum(0)
        return torch.cat(self.rows[0], dim=2), torch.cat(self.rows[1], dim=2)


def alone(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Return plain causal attention of one request's last tokens, [1, q, heads, d]."""
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
    q, k = query.shape[2], key.shape[2]
    scores = (query @ key.transpose(2, 3)) * 0.5
    scores = scores.masked_fill(~torch.ones(q, k, dtype=torch.bool).tril(k - q), -torch.inf)
    return (scores.softmax(-1) @ value).transpose(1, 2)


def test_each_request_attends_to_its_own_past_only() -> None:
    torch.manual_seed(0)
    cache = Growing(4)
    module = SimpleNamespace(layer_idx=0)
    # Whole prompts, then one decodes while others are in prefill or wait, then all decode.
    for lengths in ([3, 1, 7, 2], [1, 5, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1]):
        total = sum(lengths)
        query, key, value = torch.randn(1, 4, total, 4), torch.randn(1, 2, total, 4), torch.randn(1, 2, total, 4)
        at = [0, *torch.tensor(lengths).cumsum(0).tolist()]
        out, _ = paged_attention(
            module,
            query,
            key,
            value,
            None,
            cache=cache,
            scaling=0.5,
            cu_seq_lens_q=torch.tensor(at),
            cu_seq_lens_k=None,
        )
        for r in range(4):
            part = slice(at[r], at[r + 1])
            expected = alone(query[:, :, part], cache.rows[0][r], cache.rows[1][r])
            torch.testing.assert_close(out[:, part], expected)
