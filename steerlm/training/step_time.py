# SPDX-License-Identifier: Apache-2.0
"""Time and traffic of one update: a model with stated constants, not a measurement. Torch-free arithmetic.

It describes this trainer in bf16 with a flash-attention kernel: the pipeline alternates one forward and one backward
pass (1F1B), gradients are reduced during the last row's backward pass, parameters gathered during the first row's
forward pass, and each row's weight gradients added to their buffer by a kernel of their own, except with Transformer
Engine. Not counted: validation, saving, startup, waiting for data, and processes slower than the others.
"""

from dataclasses import astuple, dataclass

from steerlm.models.shape import ModelShape
from steerlm.training.footprint import Footprint
from steerlm.training.hardware import Gpu
from steerlm.training.layout import LayoutSettings

HALF_SPEED_TOKENS = 350
"""Tokens of a row with which matrix products reach half their sustained speed."""
NARROW = 0.94
"""Share of that speed above 4-way tensor parallelism, where each process has a narrow slice of each matrix."""
HIDDEN = 0.9
"""Share of a forward or backward pass that can hide collectives among replicas."""
EXPOSED_ALL_REDUCE = 0.15
"""Share of a tensor-parallel backward all-reduce that the weight gradient's product does not hide."""
FORWARD_KERNELS, BACKWARD_KERNELS, ATTENTION_KERNELS = 27, 52, 14
"""Kernels of one layer; selective recomputation launches those of rotation and attention again."""
UPDATE_SECONDS = 3e-3
"""Kernel launches and the wait for the gradient norm in one optimizer step."""
HOST_SECONDS = 4e-3
"""Packing a batch and copying it to the device, once per step."""


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of one update, by what the GPUs work on or wait for.

    Attributes:
        tensor: Tensor-parallel communication that nothing hides.
        pipeline: The bubble, and transfers between stages.
        gradients: Reduction of gradients that the backward pass does not hide.
        parameters: Gathering of parameters that the forward pass does not hide.
    """

    compute: float
    tensor: float
    pipeline: float
    gradients: float
    parameters: float
    optimizer: float
    host: float

    @property
    def total(self) -> float:
        """Seconds of the whole update: the sum of all parts."""
        seconds: float = sum(astuple(self))
        return seconds


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes that one process sends for one update, hidden or not.

    `tensor`, `pipeline`: activations and their gradients; `gradients`, `parameters`: among the replicas.
    """

    tensor: float
    pipeline: float
    gradients: float
    parameters: float


@dataclass(frozen=True, slots=True)
class LayerPass:
    """One process's share of one layer's pass over one row.

    Attributes:
        products: FLOPs of matrix products.
        attention: FLOPs of attention.
        moved: Bytes that other kernels read and write.
        kernels: Kernels launched.
        sent: Bytes sent for tensor parallelism.
        exposed: Bytes of `sent` that no computation hides.
    """

    products: float
    attention: float
    moved: float
    kernels: int
    sent: float
    exposed: float


def forward(shape: ModelShape, layout: LayoutSettings, tokens: float, context: float) -> LayerPass:
    """Return the forward pass over a row of `tokens`. `context`: mean length of a token's segment."""
    query, key, inner, whole = _widths(shape, layout)
    norms, residuals, copied_query = 2 * 2 * whole, 2 * 3 * whole, 2 * query
    rotation, activation = 5 * (query + key), 5 * inner
    sent = 2 * _all_reduce(shape, layout, tokens)  # after attention and after the MLP
    return LayerPass(
        products=2 * layer_matrices(shape, layout) * tokens,
        attention=2 * tokens * context * query,  # causal: half of all pairs, 4 FLOPs per pair and dimension
        moved=2 * tokens * (norms + residuals + copied_query + rotation + activation),
        kernels=FORWARD_KERNELS,
        sent=sent,
        exposed=sent,
    )


def backward(
    shape: ModelShape, layout: LayoutSettings, tokens: float, context: float, gradient_bytes: int
) -> LayerPass:
    """Return the backward pass, without recomputation. `gradient_bytes`: per element, 4 (fp32) or 2 (bf16)."""
    query, key, inner, whole = _widths(shape, layout)
    ahead = forward(shape, layout, tokens, context)
    norms, residuals, rotation, activation = 2 * 4 * whole, 2 * 2 * whole, 5 * (query + key), 11 * inner
    moved = 2 * tokens * (norms + residuals + rotation + activation)
    if layout.attention != "te":  # the bf16 gradient read, the buffer read and written
        moved += (2 + 2 * gradient_bytes) * layer_matrices(shape, layout)
    # Under sequence parallelism half of each all-reduce, the gathering of an output's gradient, has nothing to hide
    # behind, and both inputs are gathered once more for the weight gradients.
    return LayerPass(
        products=2 * ahead.products,
        attention=2.5 * ahead.attention,  # flash attention computes the scores again
        moved=moved,
        kernels=BACKWARD_KERNELS,
        sent=ahead.sent * (1.5 if layout.sequence_parallel else 1),
        exposed=ahead.sent * (0.5 if layout.sequence_parallel else EXPOSED_ALL_REDUCE),
    )


def recomputed(shape: ModelShape, layout: LayoutSettings, tokens: float, context: float) -> LayerPass:
    """Return the recomputation of the backward pass."""
    ahead = forward(shape, layout, tokens, context)
    if layout.recompute == "full":
        return ahead
    if layout.recompute == "selective":
        query, key, *_ = _widths(shape, layout)
        return LayerPass(0, ahead.attention, 2 * tokens * 5 * (query + key), ATTENTION_KERNELS, 0, 0)
    return LayerPass(0, 0, 0, 0, 0, 0)


def step_time(
    shape: ModelShape, layout: LayoutSettings, outputs: int | None, gpu: Gpu, footprint: Footprint
) -> StepTime:
    """Estimate one update of the training with this footprint on this layout."""
    tokens, rows, layers = footprint.row_tokens, footprint.rows_per_replica, shape.num_hidden_layers // layout.pipeline
    arguments = (shape, layout, tokens, footprint.context)
    ahead = [forward(*arguments)]
    back = [backward(*arguments, footprint.gradient_bytes), recomputed(*arguments)]
    speed, link = _product_speed(layout, gpu, tokens), _tensor_link(layout, gpu)

    def seconds(passes: list[LayerPass], *, exchanges: bool = True) -> float:
        return layers * sum(_seconds(one, gpu, speed, link if exchanges else None) for one in passes)

    head = _head_seconds(shape, layout, outputs, gpu, tokens, speed)
    row = seconds(ahead) + seconds(back) + head
    alone = seconds(ahead, exchanges=False) + seconds(back, exchanges=False) + head
    transfers = 2 * _stage_boundary(shape, layout, tokens) / _stage_link(layout, gpu) if layout.pipeline > 1 else 0.0
    sent = traffic(shape, layout, footprint)
    replicas = _replica_link(layout, gpu)
    held, memory = footprint.parameters_per_process, gpu.memory_bandwidth
    return StepTime(
        compute=rows * alone,
        tensor=rows * (row - alone),
        pipeline=(layout.pipeline - 1) * (row + transfers) + rows * transfers,
        gradients=max(0.0, sent.gradients / replicas - HIDDEN * (seconds(back) + head)),
        parameters=max(0.0, sent.parameters / replicas - HIDDEN * seconds(ahead)),
        # The gradients are read for their norm and zeroed; the update reads and writes 40 bytes per element of a share.
        optimizer=held * 2 * footprint.gradient_bytes / memory
        + held / layout.data_parallel * 40 / memory
        + UPDATE_SECONDS,
        host=HOST_SECONDS,
    )


def traffic(shape: ModelShape, layout: LayoutSettings, footprint: Footprint) -> Traffic:
    """Return the traffic of the process that sends the most."""
    tokens, rows, layers = footprint.row_tokens, footprint.rows_per_replica, shape.num_hidden_layers // layout.pipeline
    arguments = (shape, layout, tokens, footprint.context)
    passes = (forward(*arguments), backward(*arguments, footprint.gradient_bytes), recomputed(*arguments))
    others = (layout.data_parallel - 1) / layout.data_parallel
    neighbors = min(2, layout.pipeline - 1)  # a middle stage sends in both directions
    return Traffic(
        tensor=rows * layers * sum(one.sent for one in passes),
        pipeline=rows * neighbors * _stage_boundary(shape, layout, tokens),
        gradients=footprint.parameters_per_process * footprint.gradient_bytes * others,
        parameters=footprint.parameters_per_process * 2 * others,
    )


def mfu(footprint: Footprint, gpu: Gpu, seconds: float) -> float:
    """Return model FLOPs utilization: the share of the peak spent on the model's FLOPs, without recomputation."""
    return footprint.flops_per_process / seconds / gpu.peak_flops


def layer_matrices(shape: ModelShape, layout: LayoutSettings) -> float:
    """Return the weights of one layer's matrix products on one process."""
    attention = shape.head_size * (2 * shape.num_attention_heads + 2 * shape.num_key_value_heads)
    return shape.hidden_size * (attention + 3 * shape.intermediate_size) / layout.tensor


def _widths(shape: ModelShape, layout: LayoutSettings) -> tuple[float, float, float, float]:
    """Return elements per token on one process: queries, keys, MLP, and the hidden state that norms process."""
    query = shape.num_attention_heads * shape.head_size / layout.tensor
    key = shape.num_key_value_heads * shape.head_size / layout.tensor
    whole = shape.hidden_size / (layout.tensor if layout.sequence_parallel else 1)
    return query, key, shape.intermediate_size / layout.tensor, whole


def _all_reduce(shape: ModelShape, layout: LayoutSettings, tokens: float) -> float:
    """Return the bytes that a process sends to all-reduce a row's hidden states over its tensor-parallel group.

    Gathering and scattering them, under sequence parallelism, sends the same.
    """
    return 2 * (layout.tensor - 1) / layout.tensor * tokens * shape.hidden_size * 2


def _stage_boundary(shape: ModelShape, layout: LayoutSettings, tokens: float) -> float:
    """Return the bytes of a row's hidden states, or of their gradient, that a process sends to a neighboring stage."""
    return 2 * tokens * shape.hidden_size / (layout.tensor if layout.sequence_parallel else 1)


def _seconds(one: LayerPass, gpu: Gpu, speed: float, link: float | None) -> float:
    """Return the seconds of a pass; `link` None: without communication."""
    work = one.products / speed + one.attention / gpu.attention_flops + one.moved / gpu.memory_bandwidth
    return max(work + (one.exposed / link if link else 0), one.kernels * gpu.kernel_seconds)


def _head_seconds(
    shape: ModelShape, layout: LayoutSettings, outputs: int | None, gpu: Gpu, tokens: float, speed: float
) -> float:
    """Return the seconds of vocabulary projection and loss, both passes; on the last stage, which others wait for."""
    if outputs:
        return 0.0
    scores = tokens * shape.vocab_size / layout.tensor
    return 6 * scores * shape.hidden_size / speed + 40 * scores / gpu.memory_bandwidth


def _product_speed(layout: LayoutSettings, gpu: Gpu, tokens: float) -> float:
    narrow = NARROW if layout.tensor > 4 else 1.0
    return gpu.gemm_flops * narrow * tokens / (tokens + HALF_SPEED_TOKENS)


def _tensor_link(layout: LayoutSettings, gpu: Gpu) -> float:
    """Return bytes/s of a tensor-parallel group, whose ranks are neighbors."""
    return gpu.intra_node_bandwidth if layout.tensor <= layout.devices else gpu.inter_node_bandwidth


def _replica_link(layout: LayoutSettings, gpu: Gpu) -> float:
    """Return bytes/s of a data-parallel group, which uses the network ports of all its members in a node."""
    members = max(1, layout.devices // layout.tensor)
    if layout.data_parallel <= members:
        return gpu.intra_node_bandwidth
    return min(gpu.intra_node_bandwidth, members * gpu.inter_node_bandwidth)


def _stage_link(layout: LayoutSettings, gpu: Gpu) -> float:
    """Return bytes/s between pipeline stages, the outermost dimension of the ranks."""
    within = layout.nodes == 1 or layout.tensor * layout.data_parallel < layout.devices
    return gpu.intra_node_bandwidth if within else gpu.inter_node_bandwidth
