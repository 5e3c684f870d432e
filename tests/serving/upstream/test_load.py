# SPDX-License-Identifier: Apache-2.0
"""The queue of an upstream in the gateway's `/metrics`: scaling and alerts follow it there."""

import json
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serving.conftest import WINDOW, running
from tests.serving.operations.conftest import samples, total
from tests.serving.upstream.conftest import Answer, answering, send

RUNNING, WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"
BODY: dict[str, Any] = {"prompt": "A dog", "max_tokens": 300, "min_tokens": 300, "temperature": 9.0}


def test_the_queue_before_an_upstream_is_the_upstream_s(policy_folder: Path) -> None:
    with (
        running(policy_folder, "generate", engine={"max_requests": 2}) as (upstream, _),
        running(policy_folder, "generate", upstream={"url": upstream}) as (url, _),
    ):
        words = {"json": BODY, "timeout": 120}
        asking = [threading.Thread(target=httpx.post, args=(f"{url}/v1/completions",), kwargs=words) for _ in range(5)]
        for thread in asking:
            thread.start()
        seen = []
        while any(thread.is_alive() for thread in asking):
            found = samples(url)
            seen.append((total(found, RUNNING, engine="steerlm"), total(found, WAITING, engine="steerlm")))
        assert (2, 3) in seen
        assert max(running for running, _ in seen) == 2
        found = samples(url)
        assert [value for (name, _), value in found.items() if name in (RUNNING, WAITING)] == [0, 0]


def test_a_reward_model_s_upstream_has_one_too(reward_gateway: str) -> None:
    found = samples(reward_gateway)
    assert {name for name, _ in found} >= {RUNNING, WAITING}
    assert "steerlm_scorer_queue_texts" not in {name for name, _ in found}


MODELS = json.dumps({"data": [{"id": "policy", "max_model_len": WINDOW}]})
CHOICE = {"index": 0, "text": "x", "token_ids": [50], "finish_reason": "length", "logprobs": None}
COMPLETION = json.dumps({"choices": [CHOICE]})


def says(text: str) -> Answer:
    return lambda handler, _: send(handler, 200, text.encode(), content_type="text/plain; version=0.0.4")


def silent(handler: Any, _: bytes) -> None:
    threading.Event().wait(3)
    handler.close_connection = True


ENGINES = f"""# TYPE {RUNNING} gauge
{RUNNING}{{engine="0",model_name="policy"}} 3.0
{RUNNING}{{engine="1",model_name="policy"}} 4.0
{WAITING}{{engine="0",model_name="policy"}} 0.0
{WAITING}{{engine="1",model_name="policy"}} 5.0
{WAITING}_by_reason{{engine="1",model_name="policy",reason="capacity"}} 5.0
"""


@pytest.mark.parametrize(
    ("answer", "gauges"),
    [
        (says(ENGINES), {RUNNING: 7, WAITING: 5}),
        (says("other 1\n"), {}),
        (says(f"{RUNNING} 1\n"), {}),
        (says(f"{RUNNING} one\n{WAITING} two\n"), {}),
        (lambda handler, _: send(handler, 401, b"{}"), {}),
        (silent, {}),
        (None, {}),
    ],
    ids=["engines", "others", "one of them", "no numbers", "key", "silent", "no route"],
)
def test_the_gauges_are_those_that_the_upstream_has(
    policy_folder: Path, answer: Answer | None, gauges: dict[str, float]
) -> None:
    """Without them the gateway's own metrics are served as ever."""
    routes = {"/v1/models": says(MODELS), "/v1/completions": says(COMPLETION), "/health": says("")}
    if answer:
        routes["/metrics"] = answer
    with answering(routes) as upstream, running(policy_folder, "generate", upstream={"url": upstream}) as (url, _):
        found = samples(url)
    assert {name: value for (name, _), value in found.items() if name in (RUNNING, WAITING)} == gauges
    assert total(found, "steerlm_build_info") == 1
