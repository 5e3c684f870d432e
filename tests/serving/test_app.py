# SPDX-License-Identifier: Apache-2.0
"""Common to all routes: health, the size limit, draining, the common error body, the documentation."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest


@pytest.mark.parametrize("role", ["reward", "generate"])
def test_health_routes(role: str, policy_server: str, reward_server: str) -> None:
    url = reward_server if role == "reward" else policy_server
    assert httpx.get(f"{url}/health").json() == {"status": "ok"}
    assert httpx.get(f"{url}/ready").json() == {"status": "ready"}
    model = httpx.get(f"{url}/v1/model").json()
    assert (model["kind"], model["attributes"]["names"][0]) == ("reward" if role == "reward" else "policy", "quality")
    assert [m["id"] for m in httpx.get(f"{url}/v1/models").json()["data"]] == [model["id"]]


def test_routes_of_the_other_server_are_absent_and_errors_have_one_form(policy_server: str, reward_server: str) -> None:
    assert httpx.post(f"{policy_server}/v1/score", json={}).json()["error"]["type"] == "NotFoundError"
    assert httpx.put(f"{reward_server}/generate", json={}).json()["error"]["code"] == 404
    assert httpx.post(f"{policy_server}/generate", json={}).json()["error"]["code"] == 405


def test_documentation_is_served(policy_server: str, reward_server: str) -> None:
    assert set(httpx.get(f"{policy_server}/openapi.json").json()["paths"]) == {
        "/health", "/ready", "/v1/model", "/v1/models", "/generate", "/v1/chat/completions", "/v1/completions",
    }  # fmt: skip
    assert "/v1/score" in httpx.get(f"{reward_server}/openapi.json").json()["paths"]
    assert httpx.get(f"{policy_server}/docs").status_code == 200


def test_the_size_limit_holds_with_and_without_a_length(policy_folder: Path, serving: Callable[..., Any]) -> None:
    with serving(policy_folder, "generate", max_body_bytes=2000) as (url, _):
        for route, method in (("/generate", "PUT"), ("/v1/chat/completions", "POST")):
            big = b'{"sentences": ["' + b"x" * 3000 + b'"]}'
            for content in (big, iter([big[:1500], big[1500:]])):
                reply = httpx.request(method, url + route, content=content)
                assert reply.status_code == 413
                assert "larger than 2000 bytes" in reply.json()["error"]["message"]
        body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
        assert httpx.post(f"{url}/v1/chat/completions", json=body).status_code == 200


def test_a_draining_server_is_alive_but_refuses_requests(policy_folder: Path, serving: Callable[..., Any]) -> None:
    with serving(policy_folder, "generate") as (url, app):
        app.state.draining = True
        assert httpx.get(f"{url}/health").status_code == 200
        assert httpx.get(f"{url}/ready").status_code == 503
        reply = httpx.put(f"{url}/generate", json={"sentences": ["a"]})
        assert (reply.status_code, reply.json()["error"]["type"]) == (503, "ServiceUnavailableError")
        assert int(reply.headers["retry-after"]) > 0
