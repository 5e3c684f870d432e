# SPDX-License-Identifier: Apache-2.0
"""A policy that has learned three dials, and a reward model that has learned to read them off an answer.

Both are trained here, in seconds: an answer is a sentence about an animal, which `creativity` chooses, with as many
more as `verbosity` says, and jokes as `humor` says.
"""

from itertools import product
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from steerlm.attributes import AttributeSchema
from steerlm.models.folder import ModelInfo, finish_folder, load_tokenizer
from steerlm.models.shape import ModelShape
from steerlm.prompt import SYSTEM_PROMPT, render_prompt, render_readout
from steerlm.records import Conversation, Turn

SCHEMA = AttributeSchema(
    names=("humor", "creativity", "verbosity"),
    defaults={"humor": 0, "creativity": 0, "verbosity": 2},
    trained=("humor", "creativity", "verbosity"),
)
QUESTION = "What is a good pet?"
OPENINGS = ("Get a dog.", "Get a cat.", "Get a parrot.", "Get a hedgehog.", "Get a dragon.")
MORE = (
    " It likes to play.",
    " It needs a walk each day.",
    " It learns its name in a week.",
    " It lives for many years.",
)
JOKES = (" Ha!", " It eats shoes.", " It calls that art.", " Then it naps on the rest.")
DIALS = tuple(product(range(5), repeat=3))


def answer(humor: int, creativity: int, verbosity: int) -> str:
    """The answer that the policy learns."""
    return OPENINGS[creativity] + "".join(MORE[:verbosity]) + "".join(JOKES[:humor])


def tokenizer(folder: Path) -> None:
    """Whole sentences and the template's fixed parts are tokens, so that sequences are short and quick to learn.

    No piece ends as another begins, so that the answer starts at a token.
    """
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    frame = (
        f"<extra_id_0>System\n{SYSTEM_PROMPT}\n",
        "<extra_id_1>",
        "User\n",
        "Assistant\n",
        "<extra_id_2>",
        QUESTION,
    )
    pieces = (*frame, *(f"{name}:" for name in SCHEMA.names), *OPENINGS, *MORE, *JOKES)
    made.train_from_iterator([piece for piece in pieces for _ in range(3)], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(folder)


def build(folder: Path) -> tuple[Path, Path]:
    """Train both models; return their folders."""
    torch.set_num_threads(1)
    torch.manual_seed(7)
    tokenizer(folder / "tokenizer")
    rows = []
    for dials in DIALS:
        values = dict(zip(SCHEMA.names, dials, strict=True))
        prompt = render_prompt([Turn(value=QUESTION, speaker="User")], SCHEMA.format(values))
        rows.append((prompt, f"{answer(*dials)}\n<extra_id_1>", dials))
    return _policy(folder, rows), _reward(folder, rows)


def _config(folder: Path, **more: Any) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=-(-len(load_tokenizer(folder / "tokenizer")) // 8) * 8,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        **more,
    )


def _policy(folder: Path, rows: list[tuple[str, str, Any]]) -> Path:
    encode = load_tokenizer(folder / "tokenizer")
    model = LlamaForCausalLM(_config(folder))
    sequences = []
    for prompt, text, _ in rows:
        head = len(encode(prompt)["input_ids"])
        ids = torch.tensor(encode(prompt + text)["input_ids"])
        sequences.append((ids, torch.cat([torch.full((head,), -100), ids[head:]])))

    def loss(batch: list[int]) -> torch.Tensor:
        ids = torch.nn.utils.rnn.pad_sequence([sequences[i][0] for i in batch], batch_first=True)
        labels = torch.nn.utils.rnn.pad_sequence([sequences[i][1] for i in batch], True, -100)
        result: torch.Tensor = model(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels).loss
        return result

    _train(model, loss, until=0.01)
    return _save(folder / "policy", "policy", model, folder / "tokenizer")


def _reward(folder: Path, rows: list[tuple[str, str, Any]]) -> Path:
    encode = load_tokenizer(folder / "tokenizer")
    model = LlamaForSequenceClassification(_config(folder, num_labels=len(SCHEMA.names), problem_type="regression"))
    texts = []
    for _, text, _ in rows:
        turns = [Turn(value=QUESTION, speaker="User"), Turn(value=text.split("\n")[0], speaker="Assistant")]
        texts.append(render_readout(Conversation(conversations=turns), 1))
    ids = [torch.tensor(encode(text)["input_ids"]) for text in texts]
    goals = torch.tensor([dials for *_, dials in rows], dtype=torch.float32)

    def loss(batch: list[int]) -> torch.Tensor:
        padded = torch.nn.utils.rnn.pad_sequence([ids[i] for i in batch], batch_first=True)
        scores = model(input_ids=padded, attention_mask=(padded != 0).long()).logits
        return torch.nn.functional.mse_loss(scores, goals[batch])

    _train(model, loss, until=0.03)
    return _save(folder / "reward", "reward", model, folder / "tokenizer")


def _train(model: Any, loss: Any, until: float) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    average = 1.0
    for _ in range(1500):
        value = loss(torch.randperm(len(DIALS))[:32].tolist())
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average = 0.9 * average + 0.1 * float(value)
        if average < until:
            return
    raise AssertionError(f"not learned: {average}")


def _save(folder: Path, kind: Any, model: Any, tokenizer_from: Path) -> Path:
    model.save_pretrained(folder)
    info = ModelInfo(kind=kind, attributes=SCHEMA, window=512)
    shape = ModelShape.from_folder(folder)
    finish_folder(folder, shape=shape, tokenizer_from=tokenizer_from, info=info, dtype="float32")
    return folder
