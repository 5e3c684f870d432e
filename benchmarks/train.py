# SPDX-License-Identifier: Apache-2.0
"""The trainer against a plain transformers + AdamW loop: tokens/s of the same model and data in one process.

Every batch is 16 samples of 256 tokens, so that neither side pads; `packing.py` measures packing. Both sides run in
separate processes, in turns, and the medians of all steps but the first three are compared.

    python benchmarks/train.py [--sizes demo 30M 110M] [--rounds 3] [--threads 1]
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

import numpy as np

SAMPLES, LENGTH, STEPS = 16, 256, {"demo": 40, "30M": 10, "110M": 7}
SHAPES = {
    "demo": {"vocab_size": 640, "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4,
             "num_attention_heads": 4, "num_key_value_heads": 2},
    "30M": {"vocab_size": 4096, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 9,
            "num_attention_heads": 8, "num_key_value_heads": 4},
    "110M": {"vocab_size": 8192, "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 15,
             "num_attention_heads": 12, "num_key_value_heads": 6},
}  # fmt: skip


def batches(size: str) -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [
        draw.integers(1, SHAPES[size]["vocab_size"], (SAMPLES, LENGTH)).astype(np.int32) for _ in range(STEPS[size])
    ]


def ours(size: str) -> list[float]:
    from steerlm.megatron.engine import build_engine
    from steerlm.models.shape import ModelShape
    from steerlm.training.config import TextSettings
    from steerlm.training.data import Row, Sample
    from steerlm.training.layout import LayoutSettings
    from steerlm.training.objectives.text import TextObjective

    shape = ModelShape(max_position_embeddings=LENGTH, tie_word_embeddings=True, **SHAPES[size])
    settings = TextSettings(max_steps=100, precision="fp32", window=LENGTH)
    engine = build_engine(model_folder=None, shape=shape, outputs=None, settings=settings, layout=LayoutSettings())
    weights = np.ones(LENGTH, np.float32)
    weights[0] = 0
    objective = TextObjective(settings, None)
    seconds = []
    for ids in batches(size):
        samples = [Sample(row, weights, count=LENGTH - 1) for row in ids]
        rows = [Row(tuple(samples[i : i + 8])) for i in range(0, SAMPLES, 8)]
        start = time.perf_counter()
        engine.step(rows, objective, 1e-4)
        seconds.append(time.perf_counter() - start)
    return seconds


def plain(size: str) -> list[float]:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(max_position_embeddings=LENGTH, tie_word_embeddings=True, **SHAPES[size])
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    seconds = []
    for ids in batches(size):
        start = time.perf_counter()
        optimizer.zero_grad()
        for part in torch.split(torch.from_numpy(ids.astype(np.int64)), 8):
            (model(input_ids=part, labels=part).loss / 2).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    return seconds


def measure(side: str, size: str, threads: int) -> list[float]:
    """Return the seconds of each step but the first three, in a new process."""
    command = [sys.executable, __file__, "--side", side, "--sizes", size, "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds: list[float] = json.loads(done.stdout.splitlines()[-1])
    return seconds[3:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="*", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--side", choices=["ours", "plain"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        import torch

        torch.set_num_threads(options.threads)
        print(json.dumps((ours if options.side == "ours" else plain)(options.sizes[0])))
        return
    for size in options.sizes:
        seconds: dict[str, list[float]] = {"ours": [], "plain": []}
        for _ in range(options.rounds):
            for side, measured in seconds.items():
                measured.extend(measure(side, size, options.threads))
        speed = {side: SAMPLES * LENGTH / statistics.median(times) for side, times in seconds.items()}
        print(
            f"{size:5} {options.threads} threads: ours {speed['ours']:7.0f} tokens/s, transformers + AdamW"
            f" {speed['plain']:7.0f} tokens/s, {speed['ours'] / speed['plain']:.2f}x",
            flush=True,
        )


if __name__ == "__main__":
    main()
