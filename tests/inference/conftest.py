# SPDX-License-Identifier: Apache-2.0
"""A tokenizer trained here, and tiny reward and language model folders around it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from steerlm.attributes import HELPSTEER, AttributeSchema
from steerlm.models.folder import ModelInfo, finish_folder
from steerlm.models.shape import ModelShape
from steerlm.prompt import SYSTEM_PROMPT
from steerlm.records import Conversation, Turn
from tests.byte_tokenizer import byte_level_bpe

WINDOW = 128
SENTENCE = "the quick brown fox jumps over a lazy dog while seven wise owls watch from an old tree in winter"
WORDS = SENTENCE.split()


def answer(number: int) -> str:
    """A text of its own for every number, 1 to 40 words long."""
    return " ".join(WORDS[(number * 7 + k * (number % 5 + 1)) % len(WORDS)] for k in range(1 + number * 13 % 40))


def conversation(number: int, turns: int = 1) -> Conversation:
    """`turns` pairs of a question and an answer; every third answer carries a human label."""
    out = []
    for k in range(turns):
        out.append(Turn.model_validate({"value": f"question {number} {k}?", "from": "User", "label": None}))
        reply = {"value": answer(number + 31 * k), "from": "Assistant"}
        if number % 3 == 0:
            reply["label"] = "quality:3,toxicity:0"
        out.append(Turn.model_validate(reply))
    return Conversation(conversations=out, system=SYSTEM_PROMPT, mask="User")


def write(path: Path, conversations: list[Conversation]) -> Path:
    path.write_text("".join(c.to_json() + "\n" for c in conversations))
    return path


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE of 400 pieces; the template's marks split into several of them."""
    texts = [answer(n) for n in range(50)] + [SYSTEM_PROMPT, "User\nAssistant\nSystem\n", "question 1 2 3?"]
    raw = byte_level_bpe(texts, 400, ["<pad>", "</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="</s>")


def config(tokenizer: PreTrainedTokenizerFast, family: str = "llama", **more: Any) -> Any:
    usual: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": WINDOW,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": 1,
    }
    return AutoConfig.for_model(family, **usual | more)


def learn(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[tuple[str, str]],
    *,
    rate: float,
    steps: int,
    enough: float = 0.0,
) -> float:
    """Teach by heart what follows each prompt, until the loss is below `enough`; the last loss."""
    batch = tokenizer([p + t for p, t in texts], padding=True, return_tensors="pt", add_special_tokens=False)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    for row, (prompt, _) in zip(labels, texts, strict=True):
        row[: len(tokenizer(prompt, add_special_tokens=False)["input_ids"])] = -100
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    loss = torch.tensor(torch.inf)
    for _ in range(steps):
        loss = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < enough:
            break
    return loss.item()


def save(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, info: ModelInfo) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    finish_folder(folder, shape=ModelShape.from_folder(folder), tokenizer_from=folder, info=info, dtype="float32")
    return folder


def make_reward(
    folder: Path, tokenizer: PreTrainedTokenizerFast, seed: int = 1, scale: float = 10, family: str = "llama"
) -> Path:
    """Scores spread over and beyond 0..4, so that clamping shows. Only HelpSteer's five are trained. `scale`: of the
    layers' weights; large ones also enlarge roundings.
    """
    schema = AttributeSchema().restricted(HELPSTEER)
    torch.manual_seed(seed)
    names: dict[str, Any] = {"id2label": dict(enumerate(schema.names)), "problem_type": "regression"}
    model = AutoModelForSequenceClassification.from_config(config(tokenizer, family, num_labels=9, **names))
    with torch.no_grad():
        for name, weight in model.model.layers.named_parameters():
            weight.mul_(scale) if weight.dim() > 1 else None
            weight.normal_(std=0.1) if name.endswith(".bias") else None
        model.score.weight.normal_(std=0.5)
    return save(folder, model, tokenizer, ModelInfo("reward", attributes=schema, window=WINDOW))


@pytest.fixture(scope="session")
def reward_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    return make_reward(tmp_path_factory.mktemp("reward"), tokenizer)


@pytest.fixture(scope="session")
def policy_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A language model that learned some of the sentences by heart, so that it stops where they stop."""
    torch.manual_seed(2)
    model = LlamaForCausalLM(config(tokenizer, tie_word_embeddings=True))
    texts = [("", f"question {n}?\n{answer(n)[:60]}\n<extra_id_1>") for n in range(8)]
    assert learn(model, tokenizer, texts, rate=1e-2, steps=100) < 0.2
    return save(tmp_path_factory.mktemp("policy"), model.eval(), tokenizer, ModelInfo("policy", window=WINDOW))
