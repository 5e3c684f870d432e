# SPDX-License-Identifier: Apache-2.0
"""Attention over packed rows, with the checks that Transformer Engine makes of its arguments."""

import itertools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from tests.megatron.te_stand_in.modules import BaseModule


class DotProductAttention(BaseModule):
    def __init__(
        self,
        num_attention_heads: int,
        kv_channels: int | tuple[int, int],
        num_gqa_groups: int | None = None,
        attention_dropout: float = 0.0,
        qkv_format: str = "sbhd",
        attn_mask_type: str = "causal",
        window_size: tuple[int, int] | None = None,
        sequence_parallel: bool = False,
        tp_size: int = 1,
        get_rng_state_tracker: Callable[[], Any] | None = None,
        tp_group: Any = None,
        layer_number: int | None = None,
        attention_type: str = "self",
        cp_group: Any = None,
        cp_global_ranks: Any = None,
        cp_stream: Any = None,
        cp_comm_type: str = "p2p",
        softmax_scale: float | None = None,
        softmax_type: str = "vanilla",
        return_max_logit: bool | None = False,
    ) -> None:
        super().__init__()
        assert attention_type == "self" and softmax_type == "vanilla" and not return_max_logit
        assert attention_dropout == 0.0 and window_size is None and cp_group is None
        self.join(tp_group, tp_size)
        self.kv_channels, self.softmax_scale, self.attn_mask_type = kv_channels, softmax_scale, attn_mask_type
        self.num_gqa_groups_per_partition = (num_gqa_groups or num_attention_heads) // self.tp_size
        self.register_load_state_dict_post_hook(_without_extra_state)  # type: ignore[no-untyped-call]

    def forward(
        self,
        query_layer: torch.Tensor,
        key_layer: torch.Tensor,
        value_layer: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        qkv_format: str | None = None,
        cu_seqlens_q: torch.Tensor | None = None,
        cu_seqlens_kv: torch.Tensor | None = None,
        cu_seqlens_q_padded: torch.Tensor | None = None,
        cu_seqlens_kv_padded: torch.Tensor | None = None,
        max_seqlen_q: int | None = None,
        max_seqlen_kv: int | None = None,
        attn_mask_type: str | None = None,
        window_size: tuple[int, int] | None = None,
        checkpoint_core_attention: bool = False,
        core_attention_bias_type: str = "no_bias",
        core_attention_bias: torch.Tensor | None = None,
        alibi_slopes: torch.Tensor | None = None,
        fast_zero_fill: bool = True,
        inference_params: Any = None,
        pad_between_seqs: bool | None = None,
        fp8_output: bool | None = False,
        num_splits: int | None = 1,
    ) -> torch.Tensor:
        """[T, heads, size] each -> [T, heads * size]; tokens after the last segment are not computed."""
        assert qkv_format == "thd" and attn_mask_type == "padding_causal", "the stand-in has no other"
        assert attention_mask is None and core_attention_bias is None and window_size is None
        assert all(x.dim() == 3 for x in (query_layer, key_layer, value_layer))
        assert query_layer.dtype == key_layer.dtype == value_layer.dtype
        assert query_layer.shape[-1] == key_layer.shape[-1] == value_layer.shape[-1] == self.kv_channels
        assert key_layer.shape[-2] == self.num_gqa_groups_per_partition
        assert cu_seqlens_q is not None and cu_seqlens_kv is not None
        assert cu_seqlens_q.shape == cu_seqlens_kv.shape and cu_seqlens_q.dim() == 1
        assert cu_seqlens_q.dtype == cu_seqlens_kv.dtype == torch.int32
        borders = cu_seqlens_q.tolist()
        longest = max(end - start for start, end in itertools.pairwise(borders))
        assert max_seqlen_q is None or max_seqlen_q >= longest
        assert max_seqlen_kv is None or max_seqlen_kv >= longest
        outs = []
        for start, end in itertools.pairwise(borders):
            q, k, v = (x[start:end].transpose(0, 1) for x in (query_layer, key_layer, value_layer))
            outs.append(F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(0, 1))
        outs.append(torch.full_like(query_layer[borders[-1] :], torch.nan))
        return torch.cat(outs).flatten(1)


def _without_extra_state(module: torch.nn.Module, incompatible: Any) -> None:
    for key in list(incompatible.missing_keys):
        if "core_attention._extra_state" in key:
            incompatible.missing_keys.remove(key)
