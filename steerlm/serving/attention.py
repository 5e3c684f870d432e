"""Attention over a paged cache, request by request, without flash attention.

With its SDPA implementation transformers' continuous batching lets every token attend to the keys of all requests
together and masks the others away, which grows with the square of the number of requests. Here requests that decode
(one query each) are padded to the longest and attend together; those whose prompt is read attend alone. Measured at 64
requests on a CPU: 1.7 times the tokens per CPU second (docs/serving.md). Full attention only, as in Llama.
"""

import itertools
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.generation.continuous_batching import PagedAttentionCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward

NAME = "steerlm_paged"
"""What the function is registered as with transformers' `AttentionInterface`."""


def paged_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    cache: Any = None,
    scaling: float | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """`query` [1, heads, T, d], `key` and `value` [1, kv heads, T, d]: the new tokens of all requests, end to end.

    `more` has `cu_seq_lens_q`, `cu_seq_lens_k` [requests + 1]: where each request's queries and keys begin. Returns
    [1, T, heads, d]. Without a paged cache it is transformers' SDPA attention.
    """
    if not isinstance(cache, PagedAttentionCache):
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **more)
    key, value = cache.update(key, value, module.layer_idx, more)
    queries, keys, values = (x[0].transpose(0, 1) for x in (query, key, value))  # [tokens, heads, d]
    out = torch.empty_like(queries)
    at_q, at_k = more["cu_seq_lens_q"].tolist(), more["cu_seq_lens_k"].tolist()
    decoding = []
    for request, (q0, q1) in enumerate(itertools.pairwise(at_q)):
        k0, k1 = at_k[request], at_k[request + 1]
        if q1 - q0 == 1:
            decoding.append((q0, k0, k1 - k0))
        elif q1 > q0:
            out[q0:q1] = _read(queries[q0:q1], keys[k0:k1], values[k0:k1], scaling)
    if decoding:
        rows, starts, lengths = torch.tensor(decoding, device=queries.device).unbind(1)
        out[rows] = _decode(queries[rows], keys, values, starts, lengths, scaling)
    return out[None], None


def _read(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None) -> torch.Tensor:
    """The last [q, heads, d] tokens of one request against all its [k, kv heads, d]."""
    q, k = len(query), len(key)
    earlier = torch.ones(q, k, dtype=torch.bool, device=query.device).tril(k - q) if k > q else None
    query, key, value = (x.transpose(0, 1)[None] for x in (query, key, value))
    attended = scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=earlier,
        is_causal=earlier is None,
        scale=scaling,
        enable_gqa=True,
    )
    return attended[0].transpose(0, 1)


def _decode(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    starts: torch.Tensor,
    lengths: torch.Tensor,
    scaling: float | None,
) -> torch.Tensor:
    """One query [n, heads, d] of each request against its `lengths` keys from `starts` on."""
    place = torch.arange(int(lengths.max()), device=query.device)[None]
    index = (starts[:, None] + place).clamp(max=len(key) - 1).flatten()
    real = (place < lengths[:, None])[:, None, None]
    n, heads, size = query.shape
    # Heads that share keys are queries of one attention: [n, kv heads, heads per kv head, d].
    grouped = query.view(n, key.shape[1], heads // key.shape[1], size)
    keys, values = (x.index_select(0, index).view(n, -1, *x.shape[1:]).transpose(1, 2) for x in (key, value))
    attended = scaled_dot_product_attention(grouped, keys, values, attn_mask=real, scale=scaling)
    return attended.reshape(n, heads, size)
