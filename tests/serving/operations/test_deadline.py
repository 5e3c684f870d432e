# SPDX-License-Identifier: Apache-2.0
"""`--request-seconds`: a request that takes longer is answered with a 504, or its stream with an error; work ends."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.serving.operations.conftest import samples, total

TURN = "<extra_id_1>User\nA dog\n<extra_id_2>"
LONG: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 250, "min_tokens": 250}
MESSAGE = "not answered within this server's limit of"


def idle(url: str) -> None:
    """Wait until the engine has nothing to do."""
    deadline = time.monotonic() + 20
    while total(samples(url), "vllm:num_requests_running") + total(samples(url), "steerlm_answers_in_flight"):
        assert time.monotonic() < deadline


def test_a_long_answer(policy_folder: Path, serving: Callable[..., Any]) -> None:
    with serving(policy_folder, "generate", request_seconds=0.2) as (url, _):
        for path, method, body in (
            ("/v1/chat/completions", "POST", LONG),
            ("/v1/completions", "POST", {"prompt": "A dog", "max_tokens": 350, "min_tokens": 350}),
            ("/generate", "PUT", {"sentences": ["A"], "tokens_to_generate": 350, "min_tokens_to_generate": 350}),
        ):
            reply = httpx.request(method, url + path, json=body)
            error = reply.json()["error"]
            assert (reply.status_code, error["type"], error["code"]) == (504, "DeadlineExceededError", 504)
            assert MESSAGE in error["message"]
        idle(url)

        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=2) as client:
            messages, more = list[Any](LONG["messages"]), {"min_tokens": 250}
            with pytest.raises(openai.InternalServerError, match=MESSAGE):
                client.chat.completions.create(model="policy", messages=messages, max_tokens=250, extra_body=more)
            stream = client.chat.completions.create(
                model="policy", messages=messages, max_tokens=250, extra_body=more, stream=True
            )
            parts: list[Any] = []
            with pytest.raises(openai.APIError, match=MESSAGE):
                parts.extend(chunk for chunk in stream)
            assert parts, "a part of the answer arrived first"
        idle(url)
        text = httpx.post(f"{url}/v1/chat/completions", json=LONG | {"stream": True}).text
        *_, last = text.strip().split("\n\n")
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == 504 and "[DONE]" not in text
        found = samples(url)
        assert total(found, "steerlm_refused_requests_total", reason="deadline") == 6, "not sent again by the client"
        short = LONG | {"max_tokens": 1, "min_tokens": 1}
        assert httpx.post(f"{url}/v1/chat/completions", json=short).status_code == 200


def test_scoring_has_the_body_of_its_protocol(reward_folder: Path, serving: Callable[..., Any]) -> None:
    with serving(reward_folder, "reward", request_seconds=0.01, score={"wait_ms": 200}) as (url, _):
        tensor = {"name": "sentences", "datatype": "BYTES", "shape": [1, 1], "data": [TURN]}
        reply = httpx.post(f"{url}/v2/models/reward_model/infer", json={"inputs": [tensor]})
        assert reply.status_code == 504 and MESSAGE in reply.json()["error"]
        assert httpx.post(f"{url}/v1/score", json={"texts": [TURN]}).json()["error"]["code"] == 504
        assert httpx.get(f"{url}/readyz").status_code == 200
