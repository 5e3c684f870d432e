# SPDX-License-Identifier: Apache-2.0
"""The same folders in transformers, our server and a real vLLM (`make test-vllm`): scores, greedy text, template."""

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from transformers import LlamaForCausalLM

from steerlm.inference.scorer import TransformersScorer
from steerlm.models.folder import load_tokenizer
from steerlm.prompt import TURN_MARK, USER, render_readout
from tests.inference.conftest import conversation
from tests.serving.conftest import running
from tests.vllm.conftest import DIALS, QUESTIONS, needs_vllm, prompt

pytestmark = needs_vllm


def _body(question: str, dials: dict[str, int]) -> dict[str, Any]:
    return {
        "model": "model",
        "messages": [{"role": "user", "content": question}],
        "chat_template_kwargs": {"attributes": dials},
    }


@pytest.mark.timeout(900)
def test_a_policy_writes_and_reads_the_same_everywhere(policy: Path, vllm_policy: str) -> None:
    model, tokenizer = LlamaForCausalLM.from_pretrained(policy).eval(), load_tokenizer(policy)
    cases = [(question, dials) for question in QUESTIONS for dials in DIALS]
    asked = {"temperature": 0, "max_tokens": 40, "stop": [TURN_MARK]}
    with httpx.Client(base_url=vllm_policy, timeout=120) as client:
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
def test_a_reward_model_scores_the_same_everywhere(reward: Path, vllm_reward: str) -> None:
    texts = [render_readout(conversation(n), 1) for n in range(12)]
    ids = load_tokenizer(reward)(texts, add_special_tokens=False)["input_ids"]
    turns = conversation(3).conversations
    messages = [{"role": "user" if turn.speaker == USER else "assistant", "content": turn.value} for turn in turns]
    bodies: list[dict[str, Any]] = [{"input": ids}, {"input": texts}, {"input": texts[0]}, {"messages": messages}]
    with httpx.Client(base_url=vllm_reward, timeout=120) as client:
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
