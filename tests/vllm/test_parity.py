# SPDX-License-Identifier: Apache-2.0
"""The same folders in transformers, our server and a real vLLM (`make test-vllm`): scores, greedy text, template."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from demos.synthetic import free_port
from steerlm.attributes import AttributeSchema
from steerlm.inference.scorer import TransformersScorer
from steerlm.models.folder import ModelInfo, load_tokenizer
from steerlm.prompt import TURN_MARK, USER, render_prompt, render_readout
from steerlm.records import Turn
from tests.inference.conftest import WORDS, config, conversation, learn, save
from tests.inference.conftest import tokenizer as tokenizer
from tests.serving.conftest import running

VLLM = os.environ.get("STEERLM_VLLM")
pytestmark = pytest.mark.skipif(VLLM is None, reason="needs vLLM in an environment of its own: make test-vllm")

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


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
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
    until = time.monotonic() + 500
    while time.monotonic() < until:
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            if client.get("/health").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(1)
    raise AssertionError(f"vLLM did not become ready: {log.read_text()[-3000:]}")


def _body(question: str, dials: dict[str, int]) -> dict[str, Any]:
    return {
        "model": "model",
        "messages": [{"role": "user", "content": question}],
        "chat_template_kwargs": {"attributes": dials},
    }


@pytest.mark.timeout(900)
def test_a_policy_writes_and_reads_the_same_everywhere(policy: Path) -> None:
    model, tokenizer = LlamaForCausalLM.from_pretrained(policy).eval(), load_tokenizer(policy)
    cases = [(question, dials) for question in QUESTIONS for dials in DIALS]
    asked = {"temperature": 0, "max_tokens": 40, "stop": [TURN_MARK]}
    with vllm(policy) as client:
        tokens = [client.post("/tokenize", json=_body(*case)).json()["tokens"] for case in cases]
        replies = [client.post("/v1/chat/completions", json=_body(*case) | asked).json() for case in cases]
        unknown = client.post("/v1/chat/completions", json=_body(QUESTIONS[0], {"wits": 1}) | asked)
        outside = client.post("/v1/chat/completions", json=_body(QUESTIONS[0], {"wit": 9}) | asked)
        named = [
            client.post("/tokenize", json=_body(QUESTIONS[0], {}) | {"chat_template_kwargs": kwargs}).json()["tokens"]
            for kwargs in ({"depth": 2, "wit": 3}, {"label": "wit:3,depth:2"})
        ]
    assert (unknown.status_code, outside.status_code) == (400, 400)
    assert "wits" in unknown.text
    assert named == [tokens[2]] * 2, "dials by name, and in a label"
    assert "wit" in outside.text
    theirs = [reply["choices"][0]["message"]["content"] for reply in replies]
    assert len(set(theirs)) > len(QUESTIONS), "the dials change the answers"
    with running(policy, "generate") as (url, _), httpx.Client(base_url=url, timeout=60) as ours:
        for case, ids, text in zip(cases, tokens, theirs, strict=True):
            wanted = tokenizer(prompt(*case), add_special_tokens=False, return_tensors="pt")
            assert ids == wanted["input_ids"][0].tolist(), case
            out = model.generate(**wanted, max_new_tokens=40, do_sample=False, tokenizer=tokenizer)
            plain = tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True).partition(TURN_MARK)[0]
            assert text == plain, case
            reply = ours.post("/v1/chat/completions", json=_body(*case) | {"model": policy.name} | asked).json()
            # The line break before the mark closes the turn; ours leaves it out, as no part of the answer.
            assert reply["choices"][0]["message"]["content"] == text.removesuffix("\n"), case


@pytest.mark.timeout(900)
def test_a_reward_model_scores_the_same_everywhere(reward: Path) -> None:
    texts = [render_readout(conversation(n), 1) for n in range(12)]
    ids = load_tokenizer(reward)(texts, add_special_tokens=False)["input_ids"]
    turns = conversation(3).conversations
    messages = [{"role": "user" if turn.speaker == USER else "assistant", "content": turn.value} for turn in turns]
    bodies: list[dict[str, Any]] = [{"input": ids}, {"input": texts}, {"input": texts[0]}, {"messages": messages}]
    with vllm(reward, "--runner", "pooling", "--convert", "classify") as client:
        theirs = [_classified(client, body | {"model": "model"}) for body in bodies]
    with running(reward, "reward", name="model") as (url, _), httpx.Client(base_url=url, timeout=60) as client:
        ours = [_classified(client, body | {"model": "model"}) for body in bodies]
    scores = TransformersScorer(reward).score(texts)
    assert np.ptp(scores, axis=0).min() > 0.05, "scores that differ between texts"
    for here, there, wanted in zip(ours, theirs, (scores, scores, scores[:1], scores[3:4]), strict=True):
        assert here.keys() == there.keys()
        assert {name: here[name] for name in ("object", "model")} == {name: there[name] for name in ("object", "model")}
        assert here["usage"] == there["usage"]
        for one, other in zip(here["data"], there["data"], strict=True):
            assert one.keys() == other.keys()
            assert (one["index"], one["num_classes"], one["label"]) == tuple(
                other[name] for name in ("index", "num_classes", "label")
            )
        for found in (here, there):
            np.testing.assert_allclose([one["probs"] for one in found["data"]], wanted, atol=1e-4)


def _classified(client: httpx.Client, body: dict[str, Any]) -> dict[str, Any]:
    reply = client.post("/classify", json=body)
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found
