# SPDX-License-Identifier: Apache-2.0
"""Damaged requests get an answer or a 4xx with the common error body, never a 5xx, and the server stays ready."""

import random
from typing import Any

import httpx
import pytest

from steerlm.prompt import LABEL_MARK
from tests.fuzz.mutations import damaged_bytes, damaged_value, dumps

CHAT = {
    "model": "policy",
    "messages": [
        {"role": "user", "content": "What is a good pet?"},
        {"role": "assistant", "content": "A dog.", "label": {"humor": 0}},
        {"role": "user", "content": [{"type": "text", "text": "And a bad one?"}]},
    ],
    "max_tokens": 2,
    "temperature": 0.5,
    "seed": 1,
    "stop": ["x"],
    "n": 1,
    "chat_template_kwargs": {"attributes": {"humor": 4}},
}
CASES: dict[str, tuple[str, str, str, Any]] = {
    "chat": ("policy", "POST", "/v1/chat/completions", CHAT),
    "completions": (
        "policy",
        "POST",
        "/v1/completions",
        {"prompt": ["A dog", "A cat"], "max_tokens": 2, "temperature": 0, "logprobs": 1, "stop": "x", "seed": 3},
    ),
    "generate": (
        "policy",
        "PUT",
        "/generate",
        {
            "sentences": ["A dog", "A"],
            "tokens_to_generate": 2,
            "greedy": True,
            "top_k": 1,
            "top_p": 0.9,
            "temperature": 1.0,
            "end_strings": ["<extra_id_1>"],
            "random_seed": 3,
            "compute_logprob": True,
        },
    ),
    "score": ("reward", "POST", "/v1/score", {"texts": [f"A dog.\n{LABEL_MARK}", f"A cat.\n{LABEL_MARK}"]}),
    "infer ids": (
        "reward",
        "POST",
        "/v2/models/reward_model/infer",
        {
            "inputs": [
                {"name": "tokens", "shape": [2, 3], "datatype": "INT64", "data": [[5, 6, 7], [8, 9, 2]]},
                {"name": "sequence_lengths", "shape": [2, 1], "datatype": "INT64", "data": [[3], [2]]},
            ],
        },
    ),
    "infer": (
        "reward",
        "POST",
        "/v2/models/reward_model/infer",
        {
            "id": "1",
            "inputs": [{"name": "sentences", "shape": [2, 1], "datatype": "BYTES", "data": [["A dog."], ["A cat."]]}],
            "outputs": [{"name": "rewards"}],
        },
    ),
}
ROUNDS = 400


@pytest.mark.parametrize("name", CASES)
def test_damaged_requests_get_an_answer_or_a_reason(name: str, policy_server: str, reward_server: str) -> None:
    role, method, route, good = CASES[name]
    url = policy_server if role == "policy" else reward_server
    rng, seen = random.Random(name), dict[int, int]()
    with httpx.Client(base_url=url, timeout=60) as client:
        assert client.request(method, route, json=good).status_code == 200
        for number in range(ROUNDS):
            content = damaged_bytes(dumps(good), rng) if number % 4 == 0 else dumps(damaged_value(good, rng))
            reply = client.request(method, route, content=content, headers={"content-type": "application/json"})
            assert reply.status_code < 500, (content, reply.text)
            if reply.status_code >= 400:
                error = reply.json()["error"]
                assert "message" in error if isinstance(error, dict) else error, (content, reply.text)
            seen[reply.status_code] = seen.get(reply.status_code, 0) + 1
        assert client.get("/ready").status_code == 200
    assert seen.get(200, 0) > 0
    assert sum(count for status, count in seen.items() if status >= 400) > ROUNDS // 20
