# SPDX-License-Identifier: Apache-2.0
"""Attention over a paged cache, request by request, without flash attention.

With SDPA, transformers' continuous batching lets every token attend to the keys of all requests and masks those of the
others, which costs the square of the number of requests. Here requests that decode (one query each) are padded to the
longest and attend together; requests in prefill attend one by one. 1.7 times the tokens per CPU second at 64 requests
(docs/serving.md). Full attention only, as in Llama.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from steerlm.inference.engine.continuous_batching import PagedAttentionCache

NAME = "steerlm_paged"
"""Name of the function in transformers' `AttentionInterface`."""

Span = tuple[int, int]


def paged_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    cache: Any = None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Compute attention of the new tokens of all requests; without a paged cache, call transformers' SDPA attention.

    Args:
        module: The attention module.
        query: [1, heads, tokens, d], the requests one after the other.
        key: [1, key/value heads, tokens, d].
        value: As `key`.
        attention_mask: Unused with a paged cache.
        cache: The paged cache.
        scaling: Factor of the scores.
        **kwargs: `cu_seq_lens_q` and `cu_seq_lens_k`, [requests + 1]: where each request's queries and keys start.

    Returns:
        [1, tokens, heads, d], and None for the attention weights.
    """
    if not isinstance(cache, PagedAttentionCache):
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    key, value = cache.update(key, value, module.layer_idx, kwargs)
    queries, keys, values = (x[0].transpose(0, 1) for x in (query, key, value))  # [tokens, heads, d]
    if module.layer_idx == 0:
        cache.step_metadata = AttentionMetadata.build(
            kwargs["cu_seq_lens_q"].tolist(), kwargs["cu_seq_lens_k"].tolist(), query.device
        )
    metadata: AttentionMetadata = cache.step_metadata
    if metadata.decodes_only == len(queries):
        return _decode(queries, keys, values, metadata, scaling)[None], None
    out = torch.empty_like(queries)
    for (q0, q1), (k0, k1) in metadata.prefills:
        out[q0:q1] = _prefill(queries[q0:q1], keys[k0:k1], values[k0:k1], scaling)
    if len(metadata.decode_rows):
        out[metadata.decode_rows] = _decode(queries[metadata.decode_rows], keys, values, metadata, scaling)
    return out[None], None


@dataclass(frozen=True, slots=True)
class AttentionMetadata:
    """Which queries attend to which keys in one forward pass; computed at the first layer and equal at all.

    Attributes:
        prefills: Of requests with several queries, the spans of queries and of keys.
        decode_rows: [n] the queries of requests that decode.
        key_index: [n * longest] their keys; the last one is repeated as padding.
        key_mask: [n, 1, 1, longest] False for padding.
        decodes_only: n if there is no prefill, else 0.
    """

    prefills: list[tuple[Span, Span]]
    decode_rows: torch.Tensor
    key_index: torch.Tensor
    key_mask: torch.Tensor
    decodes_only: int

    @classmethod
    def build(cls, query_starts: list[int], key_starts: list[int], device: torch.device) -> "AttentionMetadata":
        """Sort requests into prefills and decodes; see `paged_attention` for the starts."""
        spans = [(q, k) for q, k in zip(pairwise(query_starts), pairwise(key_starts), strict=False) if q[1] > q[0]]
        prefills = [(q, k) for q, k in spans if q[1] - q[0] > 1]
        decodes = [(q[0], k[0], k[1] - k[0], k[1] - 1) for q, k in spans if q[1] - q[0] == 1]
        rows, starts, lengths, last = torch.tensor(decodes, dtype=torch.int64, device=device).view(-1, 4).unbind(1)
        position = torch.arange(max((length for _, _, length, _ in decodes), default=0), device=device)[None]
        index = torch.minimum(starts[:, None] + position, last[:, None]).flatten()
        mask = (position < lengths[:, None])[:, None, None]
        return cls(prefills, rows, index, mask, 0 if prefills else len(decodes))


def _prefill(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None) -> torch.Tensor:
    """Attend from the last [q, heads, d] tokens of one request to all its [k, key/value heads, d]."""
    q, k = len(query), len(key)
    mask = torch.ones(q, k, dtype=torch.bool, device=query.device).tril(k - q) if k > q else None
    query, key, value = (x.transpose(0, 1)[None] for x in (query, key, value))
    attended = scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=True
    )
    return attended[0].transpose(0, 1)


def _decode(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, metadata: AttentionMetadata, scaling: float | None
) -> torch.Tensor:
    """Attend from one query [n, heads, d] of each request that decodes to its keys."""
    n, heads, size = query.shape
    # Heads that share keys are queries of one attention: [n, key/value heads, heads per key/value head, d].
    grouped = query.reshape(n, key.shape[1], heads // key.shape[1], size)
    keys, values = (
        x.index_select(0, metadata.key_index).view(n, -1, *x.shape[1:]).transpose(1, 2) for x in (key, value)
    )
    attended = scaled_dot_product_attention(grouped, keys, values, attn_mask=metadata.key_mask, scale=scaling)
    return attended.reshape(n, heads, size)
