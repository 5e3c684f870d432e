# SPDX-License-Identifier: Apache-2.0
"""Transformer Engine's layers in place of megatron's own. Imported only if Transformer Engine is installed."""

from typing import Any

import torch
from megatron.core.extensions.transformer_engine import (
    TEDotProductAttention,
    TELayerNormColumnParallelLinear,
    TELinear,
    TENorm,
)
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_with_transformer_engine_spec
from megatron.core.transformer import ModuleSpec, TransformerConfig
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build

from steerlm.megatron.activation import GatedSilu
from steerlm.megatron.attention import Segments, packing, rotate


class TeAttention(TEDotProductAttention):
    """`core_attention` of a layer spec: our rotation and Transformer Engine's kernel for packed rows."""

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *args: Any,
        packed_seq_params: Segments,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Map [T, 1, heads, size] each to [T, 1, heads * size]."""
        row = packed_seq_params
        q, k, v = (x.squeeze(1) for x in (rotate(query, row), rotate(key, row), value))
        out = super().forward(q, k, v, None, attn_mask_type=AttnMaskType.causal, packed_seq_params=packing(row))
        return out.reshape(len(query), 1, -1)


def block_spec(config: TransformerConfig) -> TransformerBlockSubmodules:
    """Return the layers of this process's pipeline stage."""
    layer: ModuleSpec = get_gpt_layer_with_transformer_engine_spec()
    layer.submodules.self_attention.submodules.core_attention = TeAttention
    layer.submodules.mlp.submodules.activation_func = GatedSilu
    return TransformerBlockSubmodules(layer_specs=[layer] * get_num_layers_to_build(config), layer_norm=TENorm)


def fuse_gradient_accumulation(model: torch.nn.Module) -> None:
    """Let the linear layers add weight gradients to `main_grad` in the kernel that computes them.

    This is done in the gradient buffer's precision, and saves a tensor and a pass over the buffer for each row. The
    model must be wrapped in megatron's DistributedDataParallel before a backward pass.

    Megatron's `gradient_accumulation_fusion` is not used, as its own linear layers, such as the vocabulary projection,
    then need a kernel of Apex.
    """
    for module in model.modules():
        if isinstance(module, TELinear | TELayerNormColumnParallelLinear):
            module.fuse_wgrad_accumulation = True
