# SPDX-License-Identifier: Apache-2.0
"""Tiny model folders created by the tests, and real servers on free ports."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from steerlm.attributes import AttributeSchema
from steerlm.models.folder import ModelInfo, finish_folder, load_tokenizer
from steerlm.models.shape import ModelShape
from steerlm.prompt import SYSTEM_PROMPT, render_prompt
from steerlm.records import Turn
from steerlm.serving.config import ServeSettings
from steerlm.serving.run import DrainingServer, ServerKind, bind, build_app

WINDOW = 400
SCHEMA = AttributeSchema(
    names=("quality", "toxicity", "humor", "warmth"),
    defaults={"toxicity": 0, "humor": 1},
    trained=("quality", "toxicity", "humor"),
)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def _tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    labels = "User\nAssistant\nSystem\n<extra_id_0><extra_id_1><extra_id_2>quality:4,toxicity:0,humor:1,warmth:2\n"
    tokenizer.train_from_iterator(
        [labels * 9, "User\nAssistant\nSystem\n" * 9, SYSTEM_PROMPT * 9, "What is a good pet? A dog, a cat. " * 9],
        trainer,
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(folder)


def _folder(folder: Path, kind: Literal["base", "policy", "reward"], model: Any, tokenizer: Path) -> Path:
    model.save_pretrained(folder)
    info = ModelInfo(
        kind=kind,
        attributes=None if kind == "base" else SCHEMA,
        prompt_version=1,
        window=WINDOW,
        base=None,
        license=None,
        metrics={},
        data={},
    )
    shape = ModelShape.from_folder(folder)
    finish_folder(folder, shape=shape, tokenizer_from=tokenizer, info=info, dtype="float32")
    return folder


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    _tokenizer(folder)
    return folder


def _config(tokenizer: Path, **more: Any) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(load_tokenizer(tokenizer)),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        initializer_range=0.3,
        **more,
    )


@pytest.fixture(scope="session")
def policy_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Path:
    """A policy of random weights, large enough that its greedy text varies."""
    torch.manual_seed(11)
    return _folder(
        tmp_path_factory.mktemp("m") / "policy", "policy", LlamaForCausalLM(_config(tokenizer_folder)), tokenizer_folder
    )


QUESTION = "What is a good pet?"
ANSWERS = {0: "A dog.", 4: "A cat, ha!"}


@pytest.fixture(scope="session")
def taught_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Path:
    """A policy that memorized one question: it answers `ANSWERS[humor]` and then ends its turn."""
    torch.manual_seed(13)
    tokenizer = load_tokenizer(tokenizer_folder)
    model = LlamaForCausalLM(_config(tokenizer_folder))
    rows = []
    for humor, answer in ANSWERS.items():
        prompt = render_prompt([Turn(value=QUESTION, speaker="User")], SCHEMA.format(SCHEMA.complete({"humor": humor})))
        head = len(tokenizer(prompt)["input_ids"])
        ids = tokenizer(f"{prompt}{answer}\n<extra_id_1>")["input_ids"]
        rows.append((torch.tensor([ids]), torch.tensor([[-100] * head + ids[head:]])))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    loss = torch.tensor(9.0)
    for step in range(400):
        ids, labels = rows[step % 2]
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 0.02 and step > 20:
            break
    assert loss < 0.05
    return _folder(tmp_path_factory.mktemp("m") / "taught", "policy", model, tokenizer_folder)


@pytest.fixture(scope="session")
def taught_server(taught_folder: Path) -> Iterator[str]:
    with running(taught_folder, "generate") as (url, _):
        yield url


@pytest.fixture(scope="session")
def reward_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Path:
    torch.manual_seed(12)
    config = _config(tokenizer_folder, num_labels=len(SCHEMA.names), problem_type="regression")
    model = LlamaForSequenceClassification(config)
    return _folder(tmp_path_factory.mktemp("m") / "reward", "reward", model, tokenizer_folder)


@contextlib.contextmanager
def running(folder: Path, server_kind: ServerKind, **settings: Any) -> Iterator[tuple[str, Any]]:
    """A server in a thread of this process; yields its address and its app."""
    chosen = ServeSettings(port=0, **settings)
    app = build_app(folder, server_kind, chosen)
    listener = bind("127.0.0.1", 0)
    server = DrainingServer(app, chosen)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            server.run([listener])
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    try:
        assert server.started, failures
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", app
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
    assert not failures


Serving = Callable[..., Any]


@pytest.fixture(scope="session")
def serving() -> Serving:
    return running


@pytest.fixture(scope="session")
def policy_server(policy_folder: Path) -> Iterator[str]:
    with running(policy_folder, "generate") as (url, _):
        yield url


@pytest.fixture(scope="session")
def reward_server(reward_folder: Path) -> Iterator[str]:
    with running(reward_folder, "reward") as (url, _):
        yield url


@pytest.fixture(scope="session")
def stories_server(shared_data: Path) -> Iterator[str]:
    with running(shared_data / "stories260K", "generate") as (url, _):
        yield url
