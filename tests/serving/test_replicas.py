# SPDX-License-Identifier: Apache-2.0
"""Two replicas, two processes of the same folder, answer equally: by seed or greedily, alone or in a full batch."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from tests.serving.conftest import QUESTION
from tests.serving.test_run import free_port, process

BODIES: list[dict[str, Any]] = [
    {
        "messages": [{"role": "user", "content": f"{QUESTION} {number}"}],
        "max_tokens": 24,
        "temperature": 0 if number % 2 else 1.1,
        "seed": number,
        "n": 2,
        "attributes": {"humor": number % 5},
    }
    for number in range(10)
]


def ask(port: int, body: dict[str, Any]) -> list[str]:
    reply = httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, timeout=120)
    assert reply.status_code == 200, reply.text
    return [choice["message"]["content"] for choice in reply.json()["choices"]]


def test_two_replicas_answer_equally(policy_folder: Path) -> None:
    first, second = free_port(), free_port()
    with process(first, "generate", policy_folder), process(second, "generate", policy_folder):
        alone = [ask(first, body) for body in BODIES]
        with ThreadPoolExecutor(len(BODIES)) as pool:
            together = list(pool.map(lambda body: ask(second, body), reversed(BODIES)))[::-1]
    assert alone == together
    assert all(one == other for one, other in alone[1::2]), "greedy answers to one question"
    assert any(one != other for one, other in alone[::2]), "sampled ones"
