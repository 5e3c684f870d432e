# SPDX-License-Identifier: Apache-2.0
"""Offline generation: our batches, which finished rows leave, against `transformers.generate` on the same batches.

A Llama of 0.8 M random parameters, 1,024 prompts of 90-110 tokens, sampled, at most 128 new tokens, an end-of-text
probability of 1 in 43 per token (38 tokens per answer on average). Prints CPU seconds of one thread and tokens per
CPU second.

    python benchmarks/generate.py [--prompts 1024] [--batch-tokens 16384 32768]
"""

import steerlm  # noqa: F401  # isort: skip (before torch: it sets how its threads wait)

import argparse
import json
import random
import tempfile
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from steerlm.inference.batching import by_length
from steerlm.inference.config import SamplingSettings
from steerlm.inference.generator import TransformersGenerator

NEW = 128
ENDS = list(range(500, 512))


def make_folder(folder: Path) -> None:
    torch.manual_seed(0)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_tokens([f"<{n}>" for n in range(512 - len(alphabet))])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=ENDS,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "steerlm.json").write_text(
        json.dumps({"format": 1, "kind": "base", "attributes": None, "prompt_version": 1, "window": 512, "base": None})
    )


def stock(generator: TransformersGenerator, prompts: list[str]) -> int:
    """Return the number of tokens that `transformers.generate` generates in the same batches."""
    loaded, generated = generator._loaded, 0
    loaded.tokenizer.padding_side, loaded.tokenizer.pad_token = "left", "<0>"
    lengths = [len(ids) + NEW for ids in loaded.tokenizer(prompts)["input_ids"]]
    for batch in by_length(lengths, generator.batch_tokens):
        inputs = loaded.tokenizer([prompts[i] for i in batch], padding=True, return_tensors="pt")
        with torch.inference_mode():
            out = loaded.model.generate(**inputs, max_new_tokens=NEW, do_sample=True, top_k=0, top_p=1.0)
        for row in out[:, inputs["input_ids"].shape[1] :].tolist():
            ends = [k for k, token in enumerate(row) if token in ENDS]
            generated += ends[0] if ends else len(row)
    return generated


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=1024)
    parser.add_argument("--batch-tokens", type=int, nargs="*", default=[8192, 16384, 32768, 65536])
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng = random.Random(0)
    prompts = ["".join(rng.choices("abcdefgh ", k=rng.randint(90, 110))) for _ in range(options.prompts)]
    with tempfile.TemporaryDirectory() as folder:
        make_folder(Path(folder))
        for budget in options.batch_tokens:
            generator = TransformersGenerator(folder, batch_tokens=budget)
            start = time.process_time()
            generated = generator.generate(prompts, sampling=SamplingSettings(max_tokens=NEW, temperature=1.0))
            ours, tokens = time.process_time() - start, sum(len(g.ids) for (g,) in generated)
            start = time.process_time()
            theirs = stock(generator, prompts)
            stocks = time.process_time() - start
            print(
                f"batch_tokens {budget:6}: ours {ours:5.1f} CPU s, {tokens / ours:6.0f} tokens/s;"
                f" transformers.generate {stocks:5.1f} CPU s, {theirs / stocks:6.0f} tokens/s",
                flush=True,
            )


if __name__ == "__main__":
    main()
