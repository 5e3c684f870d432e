# SPDX-License-Identifier: Apache-2.0
"""Annotation, serving and training on two OpenMP threads while another program keeps a core busy.

Each is timed in a process of its own, alone and beside the busy program: as this package waits, asleep
(`OMP_WAIT_POLICY=PASSIVE`), and as torch waits by default, spinning for 300,000 rounds. They take turns; the best round
counts.
Small random models: 256 answers to annotate, an answer with n = 8 to serve, 20 steps to train.

    python benchmarks/busy_core.py [--rounds 3] [--parts annotate serve train]
"""

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

SPINNING = {"GOMP_SPINCOUNT": "300000"}  # what OpenMP does where no policy is set
WAYS: dict[str, tuple[bool, dict[str, str]]] = {
    "alone": (False, {}),
    "alone, spinning": (False, SPINNING),
    "busy core, spinning": (True, SPINNING),
    "busy core": (True, {}),
}


def annotate(folder: Path) -> float:
    """Return the seconds to score 256 texts."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

    from steerlm.attributes import AttributeSchema
    from steerlm.inference.scorer import TransformersScorer
    from steerlm.models.folder import ModelInfo, finish_folder
    from steerlm.models.shape import ModelShape

    torch.manual_seed(0)
    schema, reward = AttributeSchema(names=("quality", "humor")), folder / "reward"
    config = LlamaConfig.from_pretrained(folder, num_labels=2, problem_type="regression")
    LlamaForSequenceClassification(config).save_pretrained(reward)
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder / "tokenizer")
    shape = ModelShape.from_folder(reward)
    info = ModelInfo("reward", attributes=schema, window=512)
    finish_folder(reward, shape=shape, tokenizer_from=folder / "tokenizer", info=info, dtype="float32")
    scorer = TransformersScorer(reward)
    texts = [f"{'What is a good pet? A dog. ' * (1 + i % 12)}{i}" for i in range(256)]
    scorer.score(texts[:16])
    start = time.perf_counter()
    scorer.score(texts)
    return time.perf_counter() - start


def serve(folder: Path) -> float:
    """Return the seconds of a request for 8 answers of 64 tokens."""
    from steerlm.inference.engine.config import EngineSettings
    from steerlm.inference.engine.engine import GenerationEngine
    from steerlm.inference.engine.sampling_params import SamplingParams
    from steerlm.inference.loading import load

    loaded = load(folder, head=False)
    engine = GenerationEngine(loaded.model, loaded.tokenizer, loaded.window, EngineSettings())
    prompt = engine.encode("What is a good pet? ")

    async def answers(tokens: int) -> float:
        params = SamplingParams(max_tokens=tokens, min_tokens=tokens, temperature=1.0, seed=1)
        start = time.perf_counter()
        await asyncio.gather(*(engine.complete(prompt, params.for_answer(index)) for index in range(8)))
        return time.perf_counter() - start

    async def both() -> float:
        await answers(2)
        return await answers(64)

    engine.start()
    try:
        return asyncio.run(both())
    finally:
        engine.stop()


def train(_: Path) -> float:
    """Return the seconds of 20 steps of the trainer."""
    from train import ours

    return sum(ours("demo")[3:23])


PARTS = {"annotate": annotate, "serve": serve, "train": train}


@contextlib.contextmanager
def busy_program() -> Iterator[None]:
    program = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        program.kill()
        program.wait()


def measure(part: str, folder: Path, busy: bool, settings: dict[str, str]) -> float:
    """Return the seconds of a part in a new process."""
    command = [sys.executable, __file__, "--part", part, "--folder", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "2", **settings}
    with busy_program() if busy else contextlib.nullcontext():
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        print(PARTS[options.part](options.folder))
        return
    from generate import make_folder

    for part in options.parts:
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(options.rounds):
            for way, (busy, settings) in WAYS.items():
                with tempfile.TemporaryDirectory() as folder:
                    make_folder(Path(folder))
                    seconds[way].append(measure(part, Path(folder), busy, settings))
        alone = min(seconds["alone"])
        print(part, *(f"{way} {min(some):.2f} s ({min(some) / alone:.1f}x)" for way, some in seconds.items()), sep=", ")


if __name__ == "__main__":
    main()
