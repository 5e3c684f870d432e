# SPDX-License-Identifier: Apache-2.0
"""Tiny model folders, and an unmodified `vllm serve` of each, started once for all tests."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from transformers import LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from demos.synthetic import free_port
from steerlm.attributes import AttributeSchema
from steerlm.models.folder import ModelInfo
from steerlm.prompt import TURN_MARK, USER, render_prompt
from steerlm.records import Turn
from tests.inference.conftest import WORDS, config, learn, save
from tests.inference.conftest import tokenizer as tokenizer

VLLM = os.environ.get("STEERLM_VLLM")
needs_vllm = pytest.mark.skipif(VLLM is None, reason="needs vLLM in an environment of its own: make test-vllm")

SCHEMA = AttributeSchema(names=("wit", "calm", "depth"), low=0, high=4, defaults={"calm": 1})
WINDOW = 512
QUESTIONS = [f"question {n}?" for n in range(6)]
DIALS: list[dict[str, int]] = [{}, {"wit": 0}, {"depth": 2, "wit": 3}]
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": WINDOW,
}
"""Heads of 32, the smallest that vLLM's kernels take."""


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A policy that learned an answer for every question and every setting of a dial by heart."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(config(tokenizer, **SIZES, tie_word_embeddings=True))
    made = [
        (prompt(question, dials), f"{text(i, k)}\n{TURN_MARK}")
        for i, question in enumerate(QUESTIONS)
        for k, dials in enumerate(DIALS)
    ]
    assert learn(model, tokenizer, made, rate=5e-3, steps=200, enough=0.02) < 0.1
    info = ModelInfo("policy", attributes=SCHEMA, window=WINDOW)
    return save(tmp_path_factory.mktemp("vllm") / "policy", model.eval(), tokenizer, info)


@pytest.fixture(scope="session")
def reward(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    torch.manual_seed(1)
    names: dict[str, Any] = {"num_labels": 3, "id2label": dict(enumerate(SCHEMA.names)), "problem_type": "regression"}
    model = LlamaForSequenceClassification(config(tokenizer, **SIZES, **names))
    with torch.no_grad():
        model.score.weight.normal_(std=0.5)
    info = ModelInfo("reward", attributes=SCHEMA, window=WINDOW)
    return save(tmp_path_factory.mktemp("vllm") / "reward", model, tokenizer, info)


def text(question: int, dials: int) -> str:
    return " ".join(WORDS[(question * 5 + dials * 7 + j * (dials + 1)) % len(WORDS)] for j in range(5))


def prompt(question: str, dials: dict[str, int]) -> str:
    return render_prompt([Turn(value=question, speaker=USER)], SCHEMA.format(SCHEMA.complete(dials)))


@contextmanager
def vllm(folder: Path, *options: str) -> Iterator[httpx.Client]:
    """An unmodified `vllm serve`; a client of it."""
    port, log = free_port(), folder.parent / "vllm.log"
    words = [str(Path(VLLM or "") / "vllm"), "serve", str(folder), "--served-model-name", "model", "--port", str(port)]
    words += [
        "--dtype",
        "float32",
        "--max-model-len",
        str(WINDOW),
        "--enforce-eager",
        "--gpu-memory-utilization",
        "0.1",
    ]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    # Bound to cores, two servers would share one.
    environment |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
    with open(log, "w") as out:
        server = subprocess.Popen([*words, *options], stdout=out, stderr=out, env=environment, start_new_session=True)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            _wait(server, client, log)
            yield client
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)


def _wait(server: "subprocess.Popen[bytes]", client: httpx.Client, log: Path) -> None:
    until = time.monotonic() + 800
    while time.monotonic() < until:
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            if client.get("/health").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(1)
    raise AssertionError(f"vLLM did not become ready: {log.read_text()[-3000:]}")


@pytest.fixture(scope="session")
def vllm_policy(policy: Path) -> Iterator[str]:
    # A model that knows no JSON would fill its answer with the blanks that JSON allows (docs/engines.md).
    blanks = '{"backend": "xgrammar", "disable_any_whitespace": true}'
    with vllm(policy, "--structured-outputs-config", blanks) as client:
        yield str(client.base_url).rstrip("/")


@pytest.fixture(scope="session")
def vllm_reward(reward: Path) -> Iterator[str]:
    with vllm(reward, "--runner", "pooling", "--convert", "classify") as client:
        yield str(client.base_url).rstrip("/")
