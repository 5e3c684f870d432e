# SPDX-License-Identifier: Apache-2.0
"""Attention over a paged cache, request by request, without flash attention.

With its SDPA implementation transformers' continuous batching lets every token attend to the keys of all requests
together and masks the others away, which grows with the square of the number of requests. Here requests that decode
(one query each) are padded to the longest and attend together; those whose prompt is read attend alone. Measured at 64
requests on a CPU: 1.7 times the tokens per CPU second (docs/serving.md). Full attention only, as in Llama.
"""

from dataclasses import dataclass
from itertools import pairwise
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
    if module.layer_idx == 0:
        cache.step = Step.of(more["cu_seq_lens_q"].tolist(), more["cu_seq_lens_k"].tolist(), query.device)
    step: Step = cache.step
    if step.only_decodes == len(queries):
        return _decode(queries, keys, values, step, scaling)[None], None
    out = torch.empty_like(queries)
    for (q0, q1), (k0, k1) in step.reads:
        out[q0:q1] = _read(queries[q0:q1], keys[k0:k1], values[k0:k1], scaling)
    if len(step.rows):
        out[step.rows] = _decode(queries[step.rows], keys, values, step, scaling)
    return out[None], None


@dataclass(frozen=True, slots=True)
class Step:
    """Who attends to what in one forward pass: worked out at the first layer, the same at all.

    `reads`: of requests with several queries, where queries and keys begin and end. `rows` [n]: the queries of requests
    that decode; `index` [n x longest]: their keys, the last ones repeated; `real` [n, 1, 1, longest]: which are their
    own. `only_decodes`: n if nothing is read, else 0.
    """

    reads: list[tuple[tuple[int, int], tuple[int, int]]]
    rows: torch.Tensor
    index: torch.Tensor
    real: torch.Tensor
    only_decodes: int

    @classmethod
    def of(cls, at_q: list[int], at_k: list[int], device: torch.device) -> "Step":
        spans = [(q, k) for q, k in zip(pairwise(at_q), pairwise(at_k), strict=False) if q[1] > q[0]]
        reads = [(q, k) for q, k in spans if q[1] - q[0] > 1]
        decoding = [(q[0], k[0], k[1] - k[0], k[1] - 1) for q, k in spans if q[1] - q[0] == 1]
        columns = torch.tensor(decoding, dtype=torch.int64, device=device).view(-1, 4)
        rows, starts, lengths, last = columns.unbind(1)
        place = torch.arange(max((length for _, _, length, _ in decoding), default=0), device=device)[None]
        index = torch.minimum(starts[:, None] + place, last[:, None]).flatten()
        real = (place < lengths[:, None])[:, None, None]
        return cls(reads, rows, index, real, 0 if reads else len(decoding))


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
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, step: Step, scaling: float | None
) -> torch.Tensor:
    """One query [n, heads, d] of each request that decodes against its keys."""
    n, heads, size = query.shape
    # Heads that share keys are queries of one attention: [n, kv heads, heads per kv head, d].
    grouped = query.reshape(n, key.shape[1], heads // key.shape[1], size)
    keys, values = (x.index_select(0, step.index).view(n, -1, *x.shape[1:]).transpose(1, 2) for x in (key, value))
    attended = scaled_dot_product_attention(grouped, keys, values, attn_mask=step.real, scale=scaling)
    return attended.reshape(n, heads, size)
