# SPDX-License-Identifier: Apache-2.0
"""The model on megatron's layers, with the language model's head or the reward head.

This file has modules and their configuration; weights come from `hf_io.py`, names from `mapping.py`. Megatron's layers
apply parallelism from the process groups.
"""

import importlib.util
import logging
from typing import Any, Literal

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.tensor_parallel.cross_entropy import vocab_parallel_cross_entropy
from megatron.core.tensor_parallel.layers import (
    ColumnParallelLinear,
    RowParallelLinear,
    VocabParallelEmbedding,
    set_tensor_model_parallel_attributes,
)
from megatron.core.tensor_parallel.mappings import reduce_from_tensor_model_parallel_region
from megatron.core.transformer import ModuleSpec, TransformerConfig
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint

from steerlm.errors import InputError
from steerlm.megatron import device
from steerlm.megatron.activation import GatedSilu
from steerlm.megatron.attention import Rotary, SdpaAttention, segments
from steerlm.megatron.norm import RMSNorm
from steerlm.models.shape import ModelShape
from steerlm.training.data import RowTensors
from steerlm.training.layout import LayoutSettings

log = logging.getLogger(__name__)

Attention = Literal["te", "sdpa"]
EXTRA_STATE = "._extra_state"


class RewardHead(torch.nn.Module):
    """Computes the values at the read-out positions. Replicated over TP.

    It has no bias, so that the Hugging Face export is exact. Under sequence parallelism a process computes the
    positions among its own tokens; the [K, A] values are summed over the group, not the hidden states.
    """

    def __init__(self, config: TransformerConfig, outputs: int, group: Any) -> None:
        super().__init__()
        self.group, self.sequence_parallel = group, config.sequence_parallel
        empty = torch.empty(outputs, config.hidden_size, dtype=config.params_dtype, device=device.device())
        self.weight = torch.nn.Parameter(empty)
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, hidden: torch.Tensor, readouts: torch.Tensor) -> torch.Tensor:
        """Map `hidden` [T or T/TP, 1, h] and `readouts` [K] to values [K, A] fp32."""
        hidden = hidden.squeeze(1)
        if not self.sequence_parallel:
            return self._values(hidden.index_select(0, readouts))
        local = readouts - self.group.rank() * len(hidden)
        mine = (local >= 0) & (local < len(hidden))
        values = self._values(hidden.index_select(0, local.clamp(0, len(hidden) - 1)))
        summed: torch.Tensor = reduce_from_tensor_model_parallel_region(values * mine[:, None], group=self.group)
        return summed

    def _values(self, hidden: torch.Tensor) -> torch.Tensor:
        return F.linear(hidden.float(), self.weight.float())

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return the weight for megatron's distributed checkpoint, replicated over tensor and data parallel ranks."""
        state = self.state_dict(prefix="", keep_vars=True)
        groups = {"tp_group": self.group, "dp_cp_group": (metadata or {})["dp_cp_group"]}
        sharded: dict[str, Any] = make_sharded_tensors_for_checkpoint(state, prefix, {}, sharded_offsets, **groups)
        return sharded


class ModelStage(GPTModel):
    """One pipeline stage of the model. `outputs`: width of a reward head in place of the vocabulary projection."""

    def __init__(self, shape: ModelShape, config: TransformerConfig, spec: Any, outputs: int | None) -> None:
        super().__init__(
            config,
            spec,
            vocab_size=shape.vocab_size,
            max_sequence_length=shape.max_position_embeddings,
            pre_process=parallel_state.is_pipeline_first_stage(),
            post_process=parallel_state.is_pipeline_last_stage(),
            share_embeddings_and_output_weights=shape.tie_word_embeddings and outputs is None,
            position_embedding_type="none",  # rotated inside attention
        )
        self.outputs = outputs
        self.rotary = Rotary(shape)
        if self.post_process and outputs is not None:
            self.output_layer = RewardHead(config, outputs, self.pg_collection.tp)
        self.register_load_state_dict_post_hook(_ignore_extra_state)

    def forward(self, row: RowTensors) -> torch.Tensor:
        """Return hidden states [T or T/TP, 1, h]; the last stage returns values or log-probabilities.

        Values are [K, A] fp32; log-probabilities of `row.targets` are [T] fp32, and may be 0 where the weight is 0.
        """
        # The kernel that takes borders exists on accelerators and in half precision only.
        padded = not device.on_accelerator() or self.config.params_dtype == torch.float32
        packed = segments(row, self.rotary, padded)
        hidden = self.embedding(row.tokens[None], row.positions[None]) if self.pre_process else None
        hidden = self.decoder(hidden_states=hidden, attention_mask=None, packed_seq_params=packed)
        if not self.post_process:
            return hidden
        if self.outputs is not None:
            values: torch.Tensor = self.output_layer(hidden, row.readouts)
            return values
        return self._logprobs(hidden, row)

    def _logprobs(self, hidden: torch.Tensor, row: RowTensors) -> torch.Tensor:
        weight = self.shared_embedding_or_output_weight() if self.share_embeddings_and_output_weights else None
        if self.config.sequence_parallel:  # the projection gathers the sequence, so positions cannot be selected before
            logits, _ = self.output_layer(hidden, weight=weight)
            return -vocab_parallel_cross_entropy(logits, row.targets[:, None]).squeeze(1)
        # Only learned positions are projected: the vocabulary matrix is the largest of a small model.
        learned = row.learned
        logits, _ = self.output_layer(hidden.index_select(0, learned), weight=weight)
        losses = vocab_parallel_cross_entropy(logits, row.targets.index_select(0, learned)[:, None]).squeeze(1)
        return torch.zeros_like(row.weights).index_copy(0, learned, -losses)

    def sharded_state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the sharded state without the fp8 state of Transformer Engine's modules, which is not used.

        A checkpoint is then the same, and can be loaded, with and without Transformer Engine.
        """
        state: dict[str, Any] = super().sharded_state_dict(*args, **kwargs)
        return {name: value for name, value in state.items() if not name.endswith(EXTRA_STATE)}


def _ignore_extra_state(model: torch.nn.Module, incompatible: Any) -> None:
    missing = incompatible.missing_keys
    missing[:] = [name for name in missing if not name.endswith(EXTRA_STATE)]


def resolve_attention(layout: LayoutSettings) -> Attention:
    """Return the attention implementation of a layout; `auto` is Transformer Engine on a GPU that has it installed.

    The choice is logged, as it changes numerics. Raises `InputError` if `te` is set and not available.
    """
    available = device.on_accelerator() and importlib.util.find_spec("transformer_engine") is not None
    if layout.attention == "te" and not available:
        raise InputError("layout.attention te needs a GPU and transformer-engine; install it, or choose auto or sdpa")
    return "te" if available and layout.attention != "sdpa" else "sdpa"


def configure(shape: ModelShape, layout: LayoutSettings, dtype: torch.dtype) -> TransformerConfig:
    """Return megatron's configuration of a model in a layout."""
    recompute: dict[str, Any] = {}
    if layout.recompute == "full":
        recompute = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    elif layout.recompute == "selective":
        recompute = {"recompute_granularity": "selective", "recompute_modules": ["core_attn"]}
    return TransformerConfig(
        num_layers=shape.num_hidden_layers,
        hidden_size=shape.hidden_size,
        ffn_hidden_size=shape.intermediate_size,
        num_attention_heads=shape.num_attention_heads,
        num_query_groups=shape.num_key_value_heads,
        kv_channels=shape.head_size,
        normalization="RMSNorm",
        layernorm_epsilon=shape.rms_norm_eps,
        gated_linear_unit=True,
        activation_func=F.silu,
        use_te_activation_func=True,  # a module of the layer spec's choice: ours, on megatron's layers
        add_bias_linear=False,
        add_qkv_bias=shape.family.qkv_bias,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        tensor_model_parallel_size=layout.tensor,
        pipeline_model_parallel_size=layout.pipeline,
        sequence_parallel=layout.sequence_parallel,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=dtype == torch.bfloat16,
        perform_initialization=False,  # weights are loaded or drawn by name, independent of the layout
        use_cpu_initialization=not device.on_accelerator(),
        calculate_per_token_loss=True,  # gradients are summed over rows and ranks: the loss carries the denominator
        # The rows of a step have one length, so stages need not exchange shapes before each transfer. Waiting for the
        # device after it is a workaround for versions of torch that are older than the supported ones.
        variable_seq_lengths=False,
        batch_p2p_sync=False,
        deallocate_pipeline_outputs=layout.pipeline > 1,
        **recompute,
    )


def build(shape: ModelShape, config: TransformerConfig, attention: Attention, outputs: int | None) -> ModelStage:
    """Build this process's part of the model; its weights are not set."""
    if attention == "te":
        from steerlm.megatron import transformer_engine

        spec = transformer_engine.block_spec(config)
    else:
        spec = _local_spec(config)
    log.info("attention: %s, device: %s, parameters: %s", attention, device.device(), config.params_dtype)
    model = ModelStage(shape, config, spec, outputs)
    if attention == "te":
        transformer_engine.fuse_gradient_accumulation(model)
    _mark_tensor_parallel(model)
    return model.to(device.device())


def _local_spec(config: TransformerConfig) -> TransformerBlockSubmodules:
    layer: ModuleSpec = get_gpt_layer_local_spec(normalization="RMSNorm")
    layer.submodules.input_layernorm = RMSNorm
    layer.submodules.pre_mlp_layernorm = RMSNorm
    layer.submodules.self_attention.submodules.core_attention = SdpaAttention
    layer.submodules.mlp.submodules.activation_func = GatedSilu
    return TransformerBlockSubmodules(layer_specs=[layer] * get_num_layers_to_build(config), layer_norm=RMSNorm)


def _mark_tensor_parallel(model: torch.nn.Module) -> None:
    """Mark sharded weights, as megatron does when it initializes them.

    Without the mark the gradient norm counts one shard only. Megatron always marks biases.
    """
    for module in model.modules():
        column = isinstance(module, ColumnParallelLinear | VocabParallelEmbedding)
        if not column and not isinstance(module, RowParallelLinear):
            continue
        if module.weight is not None and not hasattr(module.weight, "tensor_model_parallel"):
            set_tensor_model_parallel_attributes(module.weight, True, 0 if column else 1, 1)
