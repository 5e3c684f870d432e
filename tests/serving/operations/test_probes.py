# SPDX-License-Identifier: Apache-2.0
"""Probes: `/livez` is about progress, `/readyz` about new requests, `/startupz` about the self-test."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from steerlm.inference.engine.token_selector import TokenSelector
from steerlm.inference.scorer import TransformersScorer
from steerlm.serving.config import ServeSettings
from steerlm.serving.run import build_app

TURN = "<extra_id_1>User\nA dog\n<extra_id_2>"
CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}


def probes(url: str) -> tuple[int, ...]:
    return tuple(httpx.get(f"{url}{path}").status_code for path in ("/livez", "/readyz", "/startupz"))


def becomes(url: str, wanted: tuple[int, ...]) -> None:
    deadline = time.monotonic() + 30
    while probes(url) != wanted:
        assert time.monotonic() < deadline, probes(url)
        time.sleep(0.02)


def test_a_stuck_engine_is_not_alive_until_it_goes_on(
    policy_folder: Path, serving: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()
    select = TokenSelector.__call__

    def stuck(*arguments: Any, **more: Any) -> Any:
        goes_on.wait(60)
        return select(*arguments, **more)

    with serving(policy_folder, "generate", engine={"stall_seconds": 0.3}) as (url, _), ThreadPoolExecutor() as pool:
        assert probes(url) == (200, 200, 200)
        monkeypatch.setattr(TokenSelector, "__call__", stuck)
        answer = pool.submit(httpx.post, f"{url}/v1/chat/completions", json=CHAT, timeout=60)
        becomes(url, (503, 503, 200))
        goes_on.set()
        assert answer.result().status_code == 200
        assert probes(url) == (200, 200, 200)


def test_a_stuck_scorer_is_not_alive_and_a_large_batch_has_more_time(
    reward_folder: Path, serving: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on, begun = threading.Event(), threading.Event()
    score = TransformersScorer.score_tokens

    def stuck(self: TransformersScorer, rows: Any) -> Any:
        begun.set()
        goes_on.wait(60)
        return score(self, rows)

    settings = {"stall_seconds": 0.2, "max_batch": 2}
    with serving(reward_folder, "reward", score=settings) as (url, _), ThreadPoolExecutor() as pool:
        monkeypatch.setattr(TransformersScorer, "score_tokens", stuck)
        large = pool.submit(httpx.post, f"{url}/v1/score", json={"texts": [TURN] * 800}, timeout=60)
        assert begun.wait(30)
        begin = time.monotonic()
        while time.monotonic() < begin + 0.5:
            assert probes(url) == (200, 200, 200), "400 batches have 80 seconds"
        goes_on.set()
        assert large.result().status_code == 200
        goes_on.clear()
        small = pool.submit(httpx.post, f"{url}/v1/score", json={"texts": [TURN]}, timeout=60)
        becomes(url, (503, 503, 200))
        refused = httpx.post(f"{url}/v1/score", json={"texts": [TURN]})
        assert refused.status_code == 500 and "makes no progress" in refused.text
        goes_on.set()
        assert small.result().status_code == 200
        assert probes(url) == (200, 200, 200)


def test_a_draining_server_is_alive_and_started_but_not_ready(policy_folder: Path, serving: Callable[..., Any]) -> None:
    with serving(policy_folder, "generate") as (url, app):
        app.state.draining = True
        assert probes(url) == (200, 503, 200)
        assert httpx.get(f"{url}/metrics").status_code == 200


def test_before_the_self_test_nothing_is_ready(reward_folder: Path) -> None:
    """No real server answers then: its socket is not open yet."""
    client = TestClient(build_app(reward_folder, "reward", ServeSettings()))
    for path in ("/startupz", "/readyz", "/ready", "/v2/health/ready"):
        reply = client.get(path)
        assert reply.status_code == 503 and "being loaded or tested" in reply.text
