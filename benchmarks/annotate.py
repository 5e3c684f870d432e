"""Annotation: turns a second of our scorer against upstream's way, one turn at a time, padded to the window.

Answers of OASST's English validation conversations, a reward model of 6 M random parameters, fp32, one thread, in one
process for both, so that what is compared is batching by length without padding, not HTTP.

    python benchmarks/annotate.py oasst1/en-validation.jsonl tokenizers/llama2.tokenizer.model [--turns 192]
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from oasst import SIZES, WINDOW, arguments, conversations
from transformers import LlamaConfig, LlamaForSequenceClassification

from steerlm.attributes import AttributeSchema
from steerlm.inference.scorer import TransformersScorer
from steerlm.models.folder import ModelInfo, finish_folder
from steerlm.models.shape import LlamaShape
from steerlm.models.tokenizer import copy_tokenizer, load_tokenizer
from steerlm.prompt import render_readout


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
    finish_folder(folder, shape=LlamaShape.from_folder(folder), tokenizer_from=folder, info=info, dtype="float32")


def texts(data: Path, count: int) -> list[str]:
    found = [
        render_readout(talk, i)
        for talk in conversations(data, ["train"])
        for i, turn in enumerate(talk.conversations)
        if turn.speaker != talk.mask
    ]
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))[:count]]


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


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--turns", type=int, default=192)
    options = parser.parse_args()
    torch.set_num_threads(1)
    of = texts(options.data, options.turns)
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder), options.tokenizer)
        scorer = TransformersScorer(folder)
    scorer.score(of[:8], "keep_end")
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
    speed = {way: len(of) / used for way, used in seconds.items()}
    print(
        f"{len(of)} turns: ours {speed['ours']:.1f} turns/s, one by one padded to {WINDOW} tokens"
        f" {speed['one by one']:.1f} turns/s, {speed['ours'] / speed['one by one']:.1f}x; equal scores"
    )


if __name__ == "__main__":
    main()
