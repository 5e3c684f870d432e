# SPDX-License-Identifier: Apache-2.0
"""GPUs for serving models of Llama's shapes: arithmetic, not a measurement. `python benchmarks/sizing.py`.

Memory: weights in BF16, vLLM's share of each GPU, an allowance for activations and CUDA graphs, the rest for keys and
values. Speed: what the memory's bandwidth (one answer at a time) and the arithmetic units (scoring) allow at most; real
servers reach 50-60 % of the latter.
"""

from dataclasses import dataclass

from steerlm.models.shape import ModelShape

SHAPES = {
    "7B": ModelShape(
        vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=32, max_position_embeddings=4096,
    ),
    "13B": ModelShape(
        vocab_size=32000, hidden_size=5120, intermediate_size=13824, num_hidden_layers=40,
        num_attention_heads=40, num_key_value_heads=40, max_position_embeddings=4096,
    ),
    "70B": ModelShape(
        vocab_size=32000, hidden_size=8192, intermediate_size=28672, num_hidden_layers=80,
        num_attention_heads=64, num_key_value_heads=8, max_position_embeddings=4096,
    ),
}  # fmt: skip
"""Llama 2's."""
GPU_BYTES, BANDWIDTH, FLOPS = 80e9, 3.35e12, 989e12
"""Of an H100 SXM: memory, bytes per second of it, dense BF16 operations per second."""
SHARE, ALLOWANCE = 0.92, 3e9
"""vLLM's default share of a GPU, and what it needs there besides weights and cache."""
BYTES = 2
CONTEXT = 4096
CHOICES = (("7B", 1), ("13B", 1), ("13B", 2), ("70B", 4), ("70B", 8))


@dataclass(frozen=True)
class Size:
    """What a model on so many GPUs needs and allows.

    Attributes:
        weights: Bytes.
        cache: Bytes left for keys and values, of all GPUs.
        token: Bytes of keys and values of one token.
        seconds: Of one token of one answer, at least.
        scored: Tokens per second that a reward model of the size scores, at most.
    """

    weights: float
    cache: float
    token: float
    seconds: float
    scored: float


def size(name: str, gpus: int) -> Size:
    shape = SHAPES[name]
    parameters = shape.parameters(None)
    head = shape.hidden_size // shape.num_attention_heads
    weights = float(parameters * BYTES)
    return Size(
        weights=weights,
        cache=gpus * (SHARE * GPU_BYTES - ALLOWANCE) - weights,
        token=float(2 * shape.num_hidden_layers * shape.num_key_value_heads * head * BYTES),
        seconds=weights / (gpus * BANDWIDTH),
        scored=gpus * FLOPS / (2 * parameters),
    )


def table() -> str:
    """Return the table of docs/deployment.md."""
    lines = [
        "| model | GPUs of a pod | weights | keys and values per token | full windows of 4,096 tokens at once "
        "| tokens/s of one answer, at most | tokens/s scored, at 50-60 % |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, gpus in CHOICES:
        found = size(name, gpus)
        lines.append(
            f"| {name} | {gpus} | {found.weights / 1e9:.1f} GB | {found.token / 2**20:.2f} MiB "
            f"| {int(found.cache / found.token / CONTEXT)} | {1 / found.seconds:.0f} "
            f"| {found.scored * 0.5 / 1e3:,.0f}k-{found.scored * 0.6 / 1e3:,.0f}k |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
