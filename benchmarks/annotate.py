# SPDX-License-Identifier: Apache-2.0
"""Annotation: turns a second of our ways against upstream's way, one turn at a time, padded to the window.

Answers of OASST's English validation conversations, a reward model of 6 M random parameters, fp32, one thread each.
First the scorer alone: what is compared is batching by length without padding, not HTTP. Then whole files, read, scored
and written: one process with transformers, and jobs of one and two workers with megatron's layers and packed rows.
Starting processes and loading models is not counted. Every way is run `--rounds` times, in turns, and its best counts.

    python benchmarks/annotate.py oasst1/en-validation.jsonl tokenizers/llama2.tokenizer.model [--turns 192]
"""

import steerlm  # noqa: F401  # isort: skip (before torch: it sets how its threads wait)

import re
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from oasst import SIZES, WINDOW, arguments, conversations
from transformers import LlamaConfig, LlamaForSequenceClassification

from steerlm.annotation.annotate import AnnotateCounts, annotate
from steerlm.annotation.config import AnnotateSettings
from steerlm.annotation.job import AnnotationTask, annotate_by_job
from steerlm.attributes import AttributeSchema
from steerlm.inference.scorer import TransformersScorer
from steerlm.jobs.place import JobPlace
from steerlm.models.folder import ModelInfo, finish_folder
from steerlm.models.shape import ModelShape
from steerlm.models.tokenizer import copy_tokenizer, load_tokenizer
from steerlm.prompt import render_readout
from steerlm.recipe import Profile
from steerlm.records import Conversation, Turn
from steerlm.training.layout import LayoutSettings

OPTIONS = AnnotateSettings(look_ahead=32, over_long="keep_end")
RATE = re.compile(r"block (\d+)/\1 of each worker, (\d+(?:\.\d+)?) turns/s together")


def make_model(folder: Path, tokenizer: Path) -> None:
    copy_tokenizer(tokenizer, folder, plain=True)
    torch.manual_seed(0)
    schema = AttributeSchema()
    config = LlamaConfig(
        vocab_size=len(load_tokenizer(folder)),
        **SIZES,
        num_labels=len(schema.names),
        id2label=dict(enumerate(schema.names)),
        problem_type="regression",
    )
    LlamaForSequenceClassification(config).save_pretrained(folder)
    info = ModelInfo("reward", attributes=schema, window=WINDOW)
    finish_folder(folder, shape=ModelShape.from_folder(folder), tokenizer_from=folder, info=info, dtype="float32")


def answers(data: Path, count: int) -> list[Conversation]:
    """`count` answers with their histories, each the only one of its conversation that is scored."""
    found = [
        talk.model_copy(update={"conversations": [*_without_labels(talk.conversations[:i]), _labeled(turn)]})
        for talk in conversations(data, ["train"])
        for i, turn in enumerate(talk.conversations)
        if turn.speaker != talk.mask
    ]
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))[:count]]


def _without_labels(turns: list[Turn]) -> list[Turn]:
    return [turn.model_copy(update={"label": None}) for turn in turns]


def _labeled(turn: Turn) -> Turn:
    return turn.model_copy(update={"label": turn.label or "quality:0"})


@torch.inference_mode()
def one_by_one(scorer: TransformersScorer, of: list[str]) -> np.ndarray:
    """A forward pass a turn over the whole window, read out at the turn's last token."""
    loaded, scores = scorer._loaded, []
    for text in of:
        ids = loaded.tokenizer(text, add_special_tokens=False)["input_ids"][-WINDOW:]
        row = torch.tensor([ids + [0] * (WINDOW - len(ids))])
        states = loaded.model.base_model(input_ids=row, use_cache=False).last_hidden_state
        scores.append((states[0, len(ids) - 1] @ loaded.model.score.weight.T).numpy())
    return np.stack(scores)


def compare(scorer: TransformersScorer, of: list[str]) -> dict[str, float]:
    """Seconds of our batches and of one text at a time."""
    seconds = {"ours": 0.0, "one by one": 0.0}
    for start in range(0, len(of), 64):  # in turns: what disturbs the machine disturbs both
        part = of[start : start + 64]
        began = time.perf_counter()
        mine = scorer.score(part, "keep_end")
        middle = time.perf_counter()
        theirs = one_by_one(scorer, part)
        seconds["ours"] += middle - began
        seconds["one by one"] += time.perf_counter() - middle
        assert np.abs(mine - theirs).max() < 1e-3, "the two ways score differently"
    return seconds


def in_process(scorer: TransformersScorer, source: Path, output: Path) -> float:
    """Turns a second of one process that reads, scores and writes."""
    began = time.perf_counter()
    counts: AnnotateCounts = annotate(source, output, scorer, OPTIONS.model_copy(update={"turns": "labeled"}))
    return counts.turns / (time.perf_counter() - began)


def by_job(model: Path, source: Path, output: Path, workers: int) -> float:
    """Turns a second of a job, from when its first worker's model is loaded."""
    layout = LayoutSettings(devices=workers, threads=1)
    work = AnnotationTask([(source, output)], model, OPTIONS.model_copy(update={"turns": "labeled"}), layout)
    place = JobPlace("benchmark", output.with_suffix(".job"), output.with_suffix(".log"), Profile(name="benchmark"))
    annotate_by_job(work, place, lambda line: None)
    return float(RATE.findall(place.log.read_text())[-1][1])


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--turns", type=int, default=192, help="a multiple of 64, so that two workers share alike")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    talks = answers(options.data, options.turns)
    of = [render_readout(talk, len(talk.conversations) - 1) for talk in talks]
    best = dict.fromkeys(("one process", "1 worker", "2 workers"), 0.0)
    seconds = {"ours": 0.0, "one by one": 0.0}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder / "model", options.tokenizer)
        source = folder / "in.jsonl"
        source.write_text("".join(f"{talk.to_json()}\n" for talk in talks))
        scorer = TransformersScorer(folder / "model")
        scorer.score(of[:8], "keep_end")
        for number in range(options.rounds):
            found = {
                "one process": in_process(scorer, source, folder / f"one-{number}.jsonl"),
                "1 worker": by_job(folder / "model", source, folder / f"alone-{number}.jsonl", 1),
                "2 workers": by_job(folder / "model", source, folder / f"two-{number}.jsonl", 2),
            }
            best = {way: max(speed, found[way]) for way, speed in best.items()}
            for way, used in compare(scorer, of).items():
                seconds[way] += used
        assert (folder / "alone-0.jsonl").read_bytes() == (folder / "two-0.jsonl").read_bytes()
    speed = {way: options.rounds * len(of) / used for way, used in seconds.items()}
    print(
        f"{len(of)} turns: ours {speed['ours']:.1f} turns/s, one by one padded to {WINDOW} tokens"
        f" {speed['one by one']:.1f} turns/s, {speed['ours'] / speed['one by one']:.1f}x; equal scores"
    )
    print(f"{'whole files':12} {'turns/s':>8} {'a core':>8} {'of one process':>15} {'of one by one':>14}")
    for way, cores in (("one process", 1), ("1 worker", 1), ("2 workers", 2)):
        here = best[way]
        print(
            f"{way:12} {here:8.1f} {here / cores:8.1f} {here / best['one process']:14.2f}x"
            f" {here / speed['one by one']:13.1f}x"
        )


if __name__ == "__main__":
    main()
