# SPDX-License-Identifier: Apache-2.0
"""Packed rows against padded batches: real tokens/s of the trainer on the lengths of OASST conversations.

The same samples in the same global batches, the same engine, fp32 on one thread: packed as the trainer does, or padded
to the longest sample of a micro-batch of 8 as a collator does. 6 M random parameters.

    python benchmarks/packing.py oasst1/en-validation.jsonl tokenizers/llama2.tokenizer.model [--steps 4]
"""

import steerlm  # noqa: F401  # isort: skip (before torch: it sets how its threads wait)

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from oasst import SIZES, WINDOW, arguments, conversations

from steerlm.megatron.engine import MegatronEngine, build_engine
from steerlm.models.shape import ModelShape
from steerlm.models.tokenizer import copy_tokenizer, load_tokenizer
from steerlm.prompt import render, text_of
from steerlm.training.config import TextSettings
from steerlm.training.data import Row, Sample
from steerlm.training.layout import LayoutSettings
from steerlm.training.objectives.text import TextObjective
from steerlm.training.packing import plan_rows
from steerlm.training.sampler import Sampler

BATCH, MICRO = 32, 8
SHAPE = ModelShape(vocab_size=4096, tie_word_embeddings=True, **SIZES)


def lengths(data: Path, tokenizer: Path) -> np.ndarray:
    """Return the tokens of each English validation conversation, at most the window."""
    texts = [text_of(render(talk)) for talk in conversations(data, ["train", "val"])]
    with tempfile.TemporaryDirectory() as folder:
        copy_tokenizer(tokenizer, Path(folder), plain=True)
        ids = load_tokenizer(folder)(texts, add_special_tokens=False)["input_ids"]
    return np.array([min(WINDOW, len(one)) for one in ids])


def sample(length: int, draw: np.random.Generator, padded_to: int | None = None) -> Sample:
    """Return a sample of random ids; everything but padding is learned."""
    whole = padded_to or length
    weights = np.zeros(whole, np.float32)
    weights[1:length] = 1
    return Sample(draw.integers(1, SHAPE.vocab_size, whole).astype(np.int32), weights, count=length - 1)


def rows(taken: list[int], packed: bool, draw: np.random.Generator) -> list[Row]:
    if packed:
        planned = plan_rows(taken, MICRO * WINDOW, 1)[0]
        return [Row(tuple(sample(taken[i], draw) for i in row)) for row in planned]
    groups = [taken[i : i + MICRO] for i in range(0, len(taken), MICRO)]
    return [Row(tuple(sample(n, draw, max(group)) for n in group)) for group in groups]


def run(engine: MegatronEngine, of: np.ndarray, packed: bool, steps: range) -> float:
    """Return the seconds of these global batches."""
    sampler, draw, seconds = Sampler(len(of), 0, steps.start * BATCH), np.random.default_rng(0), 0.0
    objective = TextObjective(TextSettings(max_steps=len(steps)), None)
    for _ in steps:
        batch = rows([int(of[i]) for i in sampler.take(BATCH)], packed, draw)
        start = time.perf_counter()
        engine.step(batch, objective, 1e-4)
        seconds += time.perf_counter() - start
    return seconds


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--steps", type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(1)
    of = lengths(options.data, options.tokenizer)
    settings = TextSettings(max_steps=100, precision="fp32", window=WINDOW)
    engine = build_engine(model_folder=None, shape=SHAPE, outputs=None, settings=settings, layout=LayoutSettings())
    run(engine, of, True, range(1))
    seconds = {True: 0.0, False: 0.0}
    for step in range(options.steps):  # in turns, so that other load on the machine slows down both
        for packed in seconds:
            seconds[packed] += run(engine, of, packed, range(step, step + 1))
    taken = of[Sampler(len(of), 0).take(BATCH * options.steps)]
    tokens, padded = int(taken.sum()), int(MICRO * taken.reshape(-1, MICRO).max(1).sum())
    speed = {packed: tokens / used for packed, used in seconds.items()}
    print(f"{len(of)} conversations, mean {of.mean():.0f} tokens; {tokens / padded:.0%} of a padded batch is real")
    print(f"packed {speed[True]:.0f}, padded {speed[False]:.0f} real tokens/s: {speed[True] / speed[False]:.2f}x")


if __name__ == "__main__":
    main()
