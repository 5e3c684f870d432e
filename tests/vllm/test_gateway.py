# SPDX-License-Identifier: Apache-2.0
"""The contract of the two engines, against a real vLLM: the same requests to our engine and to the gateway before vLLM.

Bare vLLM is asked too, where a request means the same there.
"""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import tritonclient.http as triton

from steerlm.prompt import TURN_MARK, render_readout
from tests.inference.conftest import conversation
from tests.serving.conftest import running
from tests.serving.upstream.test_gateway import close, comparable
from tests.vllm.conftest import DIALS, QUESTIONS, WINDOW, needs_vllm, prompt

pytestmark = [needs_vllm, pytest.mark.timeout(900)]

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": QUESTIONS[1]}], "temperature": 0, "max_tokens": 40}
PET = {
    "type": "object",
    "required": ["pet", "age"],
    "additionalProperties": False,
    "properties": {"pet": {"enum": ["cat", "dog"]}, "age": {"enum": [1, 2]}},
}


@pytest.fixture(scope="module")
def ours(policy: Path) -> Iterator[httpx.Client]:
    with running(policy, "generate", name="model") as (url, _), httpx.Client(base_url=url, timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def gateway(policy: Path, vllm_policy: str) -> Iterator[httpx.Client]:
    upstream = {"url": f"{vllm_policy}/v1"}
    with (
        running(policy, "generate", name="model", upstream=upstream) as (url, _),
        httpx.Client(base_url=url, timeout=120) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def bare(vllm_policy: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=vllm_policy, timeout=120) as client:
        yield client


def answer(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    reply = client.post("/v1/chat/completions", json={**CHAT, "model": "model", **fields})
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


def text(reply: dict[str, Any]) -> str:
    return str(reply["choices"][0]["message"]["content"])


def test_greedy_answers_are_equal(ours: httpx.Client, gateway: httpx.Client, bare: httpx.Client) -> None:
    seen = set()
    for question in QUESTIONS:
        for dials in DIALS:
            asked = {
                "messages": [{"role": "user", "content": question}],
                "chat_template_kwargs": {"attributes": dials},
            }
            direct, through = answer(ours, **asked), answer(gateway, **asked)
            assert comparable(through) == comparable(direct)
            # The line break before the mark is no part of an answer; bare vLLM leaves it.
            assert text(answer(bare, **asked, stop=[TURN_MARK])).removesuffix("\n") == text(through)
            seen.add(text(through))
    assert len(seen) > len(QUESTIONS), "the dials change the answers"


FIELDS: dict[str, dict[str, Any]] = {
    "short": {"max_tokens": 3},
    "penalties": {"repetition_penalty": 1.2, "frequency_penalty": 0.4, "presence_penalty": 0.3, "max_tokens": 9},
    "bias": {"logit_bias": {"40": 30}, "max_tokens": 6},
    "greedy by top_p": {"temperature": 1, "top_p": 0, "max_tokens": 6},
    "one token": {"temperature": 1, "top_k": 1, "seed": 3, "max_tokens": 6},
    "stop": {"stop": ["e", "o "]},
    "label": {
        "messages": [*CHAT["messages"], {"role": "assistant", "content": "a", "label": "wit:0"}, *CHAT["messages"]]
    },
}


@pytest.mark.parametrize("name", FIELDS)
def test_fields_mean_the_same(name: str, ours: httpx.Client, gateway: httpx.Client) -> None:
    direct, through = answer(ours, **FIELDS[name]), answer(gateway, **FIELDS[name])
    assert comparable(through) == comparable(direct)


def test_log_probabilities_are_equal_but_for_rounding(ours: httpx.Client, gateway: httpx.Client) -> None:
    asked = {"logprobs": True, "top_logprobs": 3, "max_tokens": 6}
    assert close(comparable(answer(gateway, **asked)), comparable(answer(ours, **asked)))
    body = {"prompt": prompt(QUESTIONS[0], {}), "max_tokens": 3, "temperature": 0, "echo": True, "logprobs": 2}
    direct, through = [client.post("/v1/completions", json=body).json() for client in (ours, gateway)]
    assert close(comparable(through), comparable(direct))
    nemo = {"sentences": [prompt(QUESTIONS[0], {})], "tokens_to_generate": 4, "greedy": True, "compute_logprob": True}
    direct, through = [client.put("/generate", json=nemo).json() for client in (ours, gateway)]
    assert close(through, direct)


def test_a_stream_through_the_openai_client_is_the_whole_answer(gateway: httpx.Client) -> None:
    with openai.OpenAI(base_url=f"{str(gateway.base_url).rstrip('/')}/v1", api_key="none") as client:
        stream = client.chat.completions.create(
            model="model", stream=True, stream_options={"include_usage": True}, **CHAT
        )
        chunks = list(stream)
        whole = client.chat.completions.create(model="model", **CHAT)
    streamed = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert streamed == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    assert [choice.finish_reason for choice in chunks[-2].choices] == ["stop"]


def test_seeds_repeat_and_answers_differ(gateway: httpx.Client) -> None:
    asked = {"temperature": 2.0, "n": 4, "seed": -(2**70), "max_tokens": 12}
    first, again = [[choice["message"]["content"] for choice in answer(gateway, **asked)["choices"]] for _ in range(2)]
    assert first == again
    assert len(set(first)) > 1


def test_answers_in_json(gateway: httpx.Client) -> None:
    format = {"type": "json_schema", "json_schema": {"name": "pet", "schema": PET}}
    parsed = json.loads(text(answer(gateway, response_format=format, max_tokens=60)))
    assert parsed["pet"] in ("cat", "dog") and parsed["age"] in (1, 2)


REFUSED: dict[str, tuple[dict[str, Any], int]] = {
    "dial": ({"chat_template_kwargs": {"attributes": {"wits": 1}}}, 400),
    "range": ({"chat_template_kwargs": {"attributes": {"wit": 9}}}, 400),
    "model": ({"model": "other"}, 404),
    "temperature": ({"temperature": -1}, 400),
    "n": ({"n": 0}, 400),
    "length": ({"max_tokens": WINDOW * 2}, 400),
    "messages": ({"messages": [{"role": "user", "content": "long " * WINDOW}]}, 400),
}


@pytest.mark.parametrize("name", REFUSED)
def test_errors_have_one_shape(name: str, ours: httpx.Client, gateway: httpx.Client, bare: httpx.Client) -> None:
    fields, status = REFUSED[name]
    for client in (ours, gateway, bare):
        reply = client.post("/v1/chat/completions", json={**CHAT, "model": "model", **fields})
        error = reply.json()["error"]
        assert (reply.status_code, error["code"], error.keys()) == (
            status,
            status,
            {"message", "type", "param", "code"},
        ), reply.text


def test_a_client_that_leaves_frees_vllm(gateway: httpx.Client, bare: httpx.Client) -> None:
    body = {**CHAT, "min_tokens": 380, "max_tokens": 380, "temperature": 5.0, "stream": True, "logit_bias": {"40": 100}}
    with gateway.stream("POST", "/v1/chat/completions", json=body) as reply:
        next(reply.iter_lines())
    until = time.monotonic() + 20
    while "vllm:num_requests_running" in (busy := running_requests(bare)) and not busy.endswith(" 0.0"):
        assert time.monotonic() < until, busy
        threading.Event().wait(0.05)


def running_requests(client: httpx.Client) -> str:
    lines = client.get("/metrics").text.splitlines()
    return next(line for line in lines if line.startswith("vllm:num_requests_running"))


def test_scores_are_equal_but_for_rounding(reward: Path, vllm_reward: str) -> None:
    texts = [render_readout(conversation(n), 1) for n in range(70)]
    rows = np.array([[one.encode()] for one in texts], dtype=np.object_)
    found = []
    for settings in ({}, {"upstream": {"url": vllm_reward}}):
        with running(reward, "reward", **settings) as (url, _):
            scored = httpx.post(f"{url}/v1/score", json={"texts": texts}, timeout=120).json()["scores"]
            sentences = triton.InferInput("sentences", list(rows.shape), "BYTES")
            sentences.set_data_from_numpy(rows)
            with triton.InferenceServerClient(url.removeprefix("http://")) as client:
                rewards = client.infer("reward_model", [sentences]).as_numpy("rewards")
            classified = httpx.post(f"{url}/classify", json={"input": texts[:3]}, timeout=60).json()
            np.testing.assert_allclose([one["probs"] for one in classified["data"]], scored[:3], atol=1e-5)
            np.testing.assert_allclose(rewards, scored, atol=1e-5)
            found.append(scored)
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)
    assert np.ptp(found[0], axis=0).min() > 0.05
