# SPDX-License-Identifier: Apache-2.0
"""What a training needs before anything is started: whether a layout fits a model, memory per process, tokens and FLOPs
per step, storage. Pure arithmetic on shapes; knows no file, no process and no torch.

Memory is that of the fullest process: weights, fp32 gradient buffer and the sharded optimizer as this trainer keeps
them, plus what a forward pass keeps for the backward one. Left out: the CUDA context, communication buffers and the
allocator's fragments (together some GB on a GPU). `tests/megatron/test_footprint.py` compares with what is measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from steerlm.errors import ConfigError
from steerlm.models.shape import ModelShape
from steerlm.training.config import TrainSettings
from steerlm.training.layout import LayoutSettings
from steerlm.training.packing import padded_length, plan_rows
from steerlm.training.sampler import Sampler, total_steps

ROOM = 0.85
"""Share of a GPU's memory that may be filled with what is counted here; the rest is for what is not."""


def check_batch(settings: TrainSettings, layout: LayoutSettings, shape: ModelShape) -> None:
    """Raises `ConfigError` for a global batch that leaves processes without a sample, or a window beyond the model."""
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
    """Bytes of the fullest process."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits


def local_parameters(shape: ModelShape, layout: LayoutSettings, outputs: int | None, stage: int) -> int:
    """Parameters that a process of a pipeline stage holds; norms and a reward head are whole on each."""
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
    if last and not outputs and not (tied and first):  # a tied matrix is there twice if the pipeline is cut
        count += embedding
    return count


def gradient_bytes(settings: TrainSettings) -> int:
    """Of an element of the buffer that gradients are summed in, and that is reduced over the replicas."""
    return 2 if settings.reduce_gradients == "bf16" else 4


def state_bytes(parameters: int, replicas: int, settings: TrainSettings) -> tuple[int, int, int]:
    """(weights, gradients, optimizer) of that many parameters: two moments, and under bf16 the fp32 master weights,
    are shared out over the data-parallel replicas."""
    weights = parameters * (2 if settings.precision == "bf16" else 4)
    moments = 8 if settings.precision == "fp32" else 12
    return weights, parameters * gradient_bytes(settings), parameters * moments // replicas


def activation_bytes(shape: ModelShape, layout: LayoutSettings, precision: str, row_tokens: int) -> int:
    """Kept for one row by the layers of one stage, for the backward pass."""
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
    if layout.recompute == "full":  # each layer's input, and one layer whole while it is computed again
        return row_tokens * (layers * whole * size + layer)
    return row_tokens * layers * layer


def memory(
    shape: ModelShape, settings: TrainSettings, layout: LayoutSettings, outputs: int | None, rows: int = 1
) -> Memory:
    """Of the fullest process, for rows as long as the layout lets them be, `rows` of them per step and replica."""
    row_tokens = layout.row_limit(settings.window)
    of_stages = []
    for stage in {0, layout.pipeline - 1}:
        held = local_parameters(shape, layout, outputs, stage)
        weights, gradients, optimizer = state_bytes(held, layout.data_parallel, settings)
        in_flight = min(layout.pipeline - stage, max(1, rows))  # one forward, one backward: the first stage waits most
        kept = in_flight * activation_bytes(shape, layout, settings.precision, row_tokens)
        logits = 0
        if stage == layout.pipeline - 1 and not outputs:
            # Scores in the working precision, in fp32, and their exponentials; one row at a time.
            logits = row_tokens * shape.vocab_size // layout.tensor * ((2 if settings.precision == "bf16" else 0) + 8)
        of_stages.append(Memory(weights, gradients, optimizer, kept, logits))
    return max(of_stages, key=lambda m: m.total)


def flops_per_token(shape: ModelShape, outputs: int | None, context: float) -> float:
    """Model FLOPs of one token forward and backward: 6 per weight of a matrix product, and causal attention over a mean
    segment of `context` tokens. What recomputation adds is not counted."""
    embedding = shape.vocab_size * shape.hidden_size
    matrices = shape.parameters(outputs) - embedding
    if shape.tie_word_embeddings and not outputs:
        matrices += embedding  # used as the vocabulary projection
    attention = 6 * shape.num_hidden_layers * shape.num_attention_heads * shape.head_size * context
    return 6 * matrices + attention


@dataclass(frozen=True, slots=True)
class Packing:
    """How the data's lengths fill the rows: means over the simulated steps.

    Of a step: `tokens` of the data, `computed` tokens with padding, `rows` of a replica. Of a row: `row_tokens` with
    padding. `context`: length of the segment that a token lies in.
    """

    tokens: float
    computed: float
    rows: float
    row_tokens: float
    context: float

    @property
    def real_token_share(self) -> float:
        return self.tokens / self.computed


def packing(lengths: Sequence[int], settings: TrainSettings, layout: LayoutSettings, steps: int = 50) -> Packing:
    """Packs the first `steps` global batches as the trainer will. `lengths`: tokens per sample, one sample per unit.

    A replica computes its rows one after another, and every one of them waits for the slowest: what counts as computed
    is the longest row of each micro-batch, on all replicas. A pipeline's rows are all padded to the step's longest.
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
    return Packing(tokens / steps, computed / steps, rows / steps, row_tokens, squares / max(1, tokens))


@dataclass(frozen=True, slots=True)
class Needs:
    """What one training needs; FLOPs without recomputation, figures per step as means over the simulated steps.

    `real_token_share` None: the data's lengths are not known, every sample counts as a full window; `steps` is then
    `max_steps`, None without. `storage_bytes`: the model folder and as many checkpoints as there ever are at once.
    `checkpoint_bytes_per_process`: what the fullest process copies to host memory and writes for one checkpoint, its
    share of the weights and of the optimizer, both shared out over the replicas.
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


def needs(
    shape: ModelShape,
    settings: TrainSettings,
    layout: LayoutSettings,
    outputs: int | None,
    lengths: Sequence[int] | None = None,
) -> Needs:
    """Raises `ConfigError` if the layout cannot be."""
    layout.check_fits(shape)
    check_batch(settings, layout, shape)
    known = lengths is not None
    packed = packing(
        [settings.window] * settings.global_batch if lengths is None else lengths, settings, layout, 50 if known else 1
    )
    parameters, stages = shape.parameters(outputs), (0, layout.pipeline - 1)
    weights, _, optimizer = state_bytes(parameters, 1, settings)
    local = max(local_parameters(shape, layout, outputs, stage) for stage in stages)
    flops = flops_per_token(shape, outputs, packed.context) * packed.tokens
    checkpoints = settings.keep + 2  # the newest, the best, and the one that is being written
    return Needs(
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
