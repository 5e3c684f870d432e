# SPDX-License-Identifier: Apache-2.0
"""The resources of a training before it starts: memory per process, tokens and FLOPs per step, storage.

Pure arithmetic on shapes; no file, no process, no torch. Memory is that of the fullest process: weights, gradient
buffer and sharded optimizer as this trainer keeps them, plus the activations kept for the backward pass. Not counted:
the CUDA context, communication buffers and allocator fragmentation, together some GB on a GPU.
`tests/megatron/test_footprint.py` compares with measurements.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from steerlm.errors import ConfigError
from steerlm.models.shape import ModelShape
from steerlm.training.config import TrainSettings
from steerlm.training.layout import LayoutSettings
from steerlm.training.packing import padded_length, plan_rows
from steerlm.training.sampler import Sampler, total_steps

USABLE_SHARE = 0.85
"""Share of a GPU's memory that the footprint may fill; the rest is left for what it does not count."""


def check_batch(settings: TrainSettings, layout: LayoutSettings, shape: ModelShape) -> None:
    """Raise `ConfigError` if replicas get no sample of a global batch, or if the window is longer than the model's."""
    if settings.global_batch < layout.data_parallel:
        raise ConfigError(
            f"global_batch {settings.global_batch} is less than the layout's {layout.data_parallel} data-parallel "
            "replicas: some would never see a sample; raise it, or use fewer processes"
        )
    if settings.window > shape.max_position_embeddings:
        raise ConfigError(
            f"window {settings.window} is longer than the model's {shape.max_position_embeddings} positions; lower it"
        )


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of the fullest process, by kind."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """Sum over all kinds, in bytes."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits


def local_parameters(shape: ModelShape, layout: LayoutSettings, outputs: int | None, stage: int) -> int:
    """Return the parameters that a process of a pipeline stage holds; norms and a reward head are not split."""
    h, d, tensor = shape.hidden_size, shape.head_size, layout.tensor
    attention = h * d * (2 * shape.num_attention_heads + 2 * shape.num_key_value_heads)
    layer = (attention + shape.qkv_biases + 3 * h * shape.intermediate_size) // tensor + 2 * h
    count = shape.num_hidden_layers // layout.pipeline * layer
    embedding = shape.vocab_size * h // tensor
    first, last = stage == 0, stage == layout.pipeline - 1
    tied = shape.tie_word_embeddings and outputs is None
    if last:
        count += h + (outputs * h if outputs else 0)
    if first:
        count += embedding
    if last and not outputs and not (tied and first):  # a tied matrix is held twice if the pipeline has several stages
        count += embedding
    return count


def gradient_bytes(settings: TrainSettings) -> int:
    """Return the bytes per element of the buffer that gradients are summed in and reduced over replicas."""
    return 2 if settings.reduce_gradients == "bf16" else 4


def state_bytes(parameters: int, replicas: int, settings: TrainSettings) -> tuple[int, int, int]:
    """Return the bytes of weights, gradients and optimizer state for that many parameters.

    The optimizer state, two moments and for bf16 the fp32 master weights, is sharded over the data-parallel replicas.
    """
    weights = parameters * (2 if settings.precision == "bf16" else 4)
    moments = 8 if settings.precision == "fp32" else 12
    return weights, parameters * gradient_bytes(settings), parameters * moments // replicas


def activation_bytes(shape: ModelShape, layout: LayoutSettings, precision: str, row_tokens: int) -> int:
    """Return the bytes that the layers of one pipeline stage keep of one row for the backward pass."""
    size, tensor = 2 if precision == "bf16" else 4, layout.tensor
    h, d = shape.hidden_size, shape.head_size
    heads, groups = shape.num_attention_heads, shape.num_key_value_heads
    whole = h // tensor if layout.sequence_parallel else h
    # Per token: input and output of each norm; the projection that query, key and value are cut from, rotated query and
    # key; attention's output (and its logarithm of sums, fp32); gate and up, and their activated product.
    # Selective recomputation keeps the query before its rotation, and neither the rotated key nor the logarithms.
    selective = layout.recompute == "selective"
    norms = 4 * whole
    attention = (3 * heads + (2 if selective else 3) * groups) * d // tensor
    mlp = 3 * shape.intermediate_size // tensor
    layer = size * (norms + attention + mlp) + (0 if selective else 4 * heads // tensor)
    layers = shape.num_hidden_layers // layout.pipeline
    if layout.recompute == "full":  # each layer's input, and all of one layer while it is recomputed
        return row_tokens * (layers * whole * size + layer)
    return row_tokens * layers * layer


def memory(
    shape: ModelShape, settings: TrainSettings, layout: LayoutSettings, outputs: int | None, rows: int = 1
) -> Memory:
    """Return the memory of the fullest process, for `rows` rows of the longest length per step and replica."""
    row_tokens = layout.row_limit(settings.window)
    of_stages = []
    for stage in {0, layout.pipeline - 1}:
        held = local_parameters(shape, layout, outputs, stage)
        weights, gradients, optimizer = state_bytes(held, layout.data_parallel, settings)
        in_flight = min(layout.pipeline - stage, max(1, rows))  # 1F1B: the first stage holds the most
        kept = in_flight * activation_bytes(shape, layout, settings.precision, row_tokens)
        logits = 0
        if stage == layout.pipeline - 1 and not outputs:
            # Scores in the working precision, in fp32, and their exponentials; one row at a time.
            logits = row_tokens * shape.vocab_size // layout.tensor * ((2 if settings.precision == "bf16" else 0) + 8)
        of_stages.append(Memory(weights, gradients, optimizer, kept, logits))
    return max(of_stages, key=lambda m: m.total)


def flops_per_token(shape: ModelShape, outputs: int | None, context: float) -> float:
    """Return the model FLOPs of one token, forward and backward, without recomputation.

    6 per weight of a matrix product, and causal attention over a mean segment of `context` tokens.
    """
    embedding = shape.vocab_size * shape.hidden_size
    matrices = shape.parameters(outputs) - embedding
    if shape.tie_word_embeddings and not outputs:
        matrices += embedding  # used as the vocabulary projection
    attention = 6 * shape.num_hidden_layers * shape.num_attention_heads * shape.head_size * context
    return 6 * matrices + attention


@dataclass(frozen=True, slots=True)
class PackingStatistics:
    """How samples fill the rows: means over simulated steps.

    Attributes:
        tokens: Tokens of a step, without padding.
        computed: Tokens of a step, with padding.
        rows: Rows per step and replica.
        row_tokens: Tokens of a row, with padding.
        context: Length of the segment that a token belongs to.
    """

    tokens: float
    computed: float
    rows: float
    row_tokens: float
    context: float

    @property
    def real_token_share(self) -> float:
        """Share of computed tokens that are not padding, 0..1."""
        return self.tokens / self.computed


def simulate_packing(
    lengths: Sequence[int], settings: TrainSettings, layout: LayoutSettings, steps: int = 50
) -> PackingStatistics:
    """Pack the first `steps` global batches as the trainer will. `lengths`: tokens per sample, one sample per unit.

    Replicas wait for the slowest one at every row, so each counts as computing the longest row of a micro-batch. With
    pipeline parallelism all rows of a step are padded to its longest.
    """
    sampler = Sampler(len(lengths), settings.seed)
    multiple = layout.tensor if layout.sequence_parallel else 1
    tokens = computed = rows = squares = 0
    for _ in range(steps):
        taken = [int(lengths[i]) for i in sampler.take(settings.global_batch)]
        planned = plan_rows(taken, layout.row_limit(settings.window), layout.data_parallel)
        longest = [max(sum(taken[i] for i in row) for row in micro_batch) for micro_batch in zip(*planned, strict=True)]
        if layout.pipeline > 1:
            longest = [max(longest)] * len(longest)
        computed += sum(padded_length(row, multiple) for row in longest) * len(planned)
        tokens += sum(taken)
        squares += sum(n * n for n in taken)
        rows += len(longest)
    row_tokens = computed / (rows * layout.data_parallel)
    return PackingStatistics(tokens / steps, computed / steps, rows / steps, row_tokens, squares / max(1, tokens))


@dataclass(frozen=True, slots=True)
class Footprint:
    """The resources of one training. FLOPs are without recomputation; figures per step are means of simulated steps.

    Attributes:
        gradient_bytes: Bytes per element of the gradient buffer.
        real_token_share: Tokens without padding over tokens with it; None if the data's lengths are not known, in which
            case every sample counts as a full window.
        steps: Number of updates; with unknown lengths `max_steps`, which may be None.
        checkpoint_bytes_per_process: What the fullest process copies to host memory and writes for one checkpoint: its
            share of weights and optimizer, both sharded over the replicas.
        storage_bytes: The model folder and the most checkpoints that exist at once.
    """

    parameters: int
    parameters_per_process: int
    memory: Memory
    tokens_per_step: float
    rows_per_replica: float
    row_tokens: float
    context: float
    gradient_bytes: int
    real_token_share: float | None
    flops_per_step: float
    flops_per_process: float
    steps: int | None
    checkpoint_bytes: int
    checkpoint_bytes_per_process: int
    model_folder_bytes: int
    storage_bytes: int


def training_footprint(
    shape: ModelShape,
    settings: TrainSettings,
    layout: LayoutSettings,
    outputs: int | None,
    lengths: Sequence[int] | None = None,
) -> Footprint:
    """Compute the footprint of a training. `lengths`: tokens per sample; None: every sample is a full window.

    Raises `ConfigError` if layout, batch and model do not fit each other.
    """
    layout.check_fits(shape)
    check_batch(settings, layout, shape)
    known = lengths is not None
    packed = simulate_packing(
        [settings.window] * settings.global_batch if lengths is None else lengths, settings, layout, 50 if known else 1
    )
    parameters, stages = shape.parameters(outputs), (0, layout.pipeline - 1)
    weights, _, optimizer = state_bytes(parameters, 1, settings)
    local = max(local_parameters(shape, layout, outputs, stage) for stage in stages)
    flops = flops_per_token(shape, outputs, packed.context) * packed.tokens
    checkpoints = settings.keep + 2  # the newest, the best, and the one being written
    return Footprint(
        parameters=parameters,
        parameters_per_process=local,
        memory=memory(shape, settings, layout, outputs, round(packed.rows)),
        tokens_per_step=packed.tokens,
        rows_per_replica=packed.rows,
        row_tokens=packed.row_tokens,
        context=packed.context,
        gradient_bytes=gradient_bytes(settings),
        real_token_share=packed.real_token_share if known else None,
        flops_per_step=flops,
        flops_per_process=flops / layout.processes,
        steps=settings.max_steps if lengths is None else total_steps(settings, len(lengths))[0],
        checkpoint_bytes=weights + optimizer,
        checkpoint_bytes_per_process=local * (weights + optimizer) // parameters // layout.data_parallel,
        model_folder_bytes=weights,
        storage_bytes=checkpoints * (weights + optimizer) + weights,
    )
