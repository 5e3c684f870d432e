# SPDX-License-Identifier: Apache-2.0
"""Common to all routes: health, the size limit, draining, the common error body, the documentation."""

import html
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
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
        "/health", "/ready", "/v1/model", "/v1/models", "/v1/models/{model_id}",
        "/generate", "/v1/chat/completions", "/v1/completions",
        "/v1/studio", "/v1/studio/scores", "/v1/studio/ratings", "/v1/studio/preferences",
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


@pytest.mark.parametrize("role", ["reward", "generate"])
def test_pages_say_what_is_here_and_need_no_foreign_host(role: str, policy_server: str, reward_server: str) -> None:
    url = reward_server if role == "reward" else policy_server
    paths = httpx.get(f"{url}/openapi.json").json()["paths"]
    for page in ("/", "/docs"):
        reply = httpx.get(url + page)
        assert reply.status_code == 200 and reply.headers["content-type"] == "text/html; charset=utf-8"
        assert reply.headers["content-security-policy"].startswith("default-src 'none'")
        assert set(re.findall(r"https?://[^/'\"<\s]+", reply.text)) <= {url}
        assert "<script" not in reply.text and "<link" not in reply.text
        assert all(path in reply.text for path in paths if "version" not in path)
    page = httpx.get(url).text
    assert "humor" in page and "warmth" not in page, "trained attributes only"
    (shown,) = re.findall(r"<pre>(.*?)</pre>", page, re.DOTALL)
    _, address, _, header, _, body = shlex.split(html.unescape(shown))
    reply = httpx.post(address, content=body, headers=dict([header.split(": ")]), timeout=60)
    assert reply.status_code == 200, reply.text
    for field in ("texts", "messages") if role == "reward" else ("chat_template_kwargs", "tokens_to_generate"):
        assert f"<td>{field}</td>" in httpx.get(f"{url}/docs").text


def test_the_openai_client_retrieves_the_model(policy_server: str, reward_server: str) -> None:
    for url, name in ((policy_server, "policy"), (reward_server, "reward")):
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            model = client.models.retrieve(name)
            assert (model.id, model.object, model.owned_by) == (name, "model", "steerlm")
            with pytest.raises(openai.NotFoundError, match=f"did you mean '{name}'"):
                client.models.retrieve(name[:-1])


def test_unknown_routes_and_methods_are_named_with_the_known_ones(policy_server: str, reward_server: str) -> None:
    error = httpx.post(f"{policy_server}/chat/completions", json={}).json()["error"]
    assert error["code"] == 404 and "no route /chat/completions" in error["message"]
    assert "POST /v1/chat/completions" in error["message"] and "steerlm serve reward" in error["message"]
    error = httpx.post(f"{reward_server}/v1/chat/completions", json={}).json()["error"]
    assert "POST /v1/score" in error["message"] and "steerlm serve generate" in error["message"]
    reply = httpx.get(f"{policy_server}/v1/chat/completions")
    assert reply.status_code == 405 and reply.headers["allow"] == "POST"
    assert reply.json()["error"]["message"] == "GET is not a method of /v1/chat/completions; it takes POST"


def test_pages_of_an_allowed_origin_may_call_from_a_browser(policy_folder: Path, serving: Callable[..., Any]) -> None:
    origin = {"origin": "https://studio.example"}
    ask = {**origin, "access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    with serving(policy_folder, "generate", cors_origins=["https://studio.example"], max_body_bytes=500) as (url, _):
        preflight = httpx.options(f"{url}/v1/chat/completions", headers=ask)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "https://studio.example"
        assert "POST" in preflight.headers["access-control-allow-methods"]
        for size, status in ((1, 200), (600, 413)):
            body = {"messages": [{"role": "user", "content": "a" * size}], "max_tokens": 1}
            reply = httpx.post(f"{url}/v1/chat/completions", json=body, headers=origin, timeout=60)
            assert reply.status_code == status
            assert reply.headers["access-control-allow-origin"] == "https://studio.example"
        other = httpx.get(f"{url}/v1/models", headers={"origin": "https://elsewhere.example"})
        assert "access-control-allow-origin" not in other.headers


def test_other_pages_may_not(policy_server: str) -> None:
    ask = {"origin": "https://studio.example", "access-control-request-method": "POST"}
    assert httpx.options(f"{policy_server}/v1/chat/completions", headers=ask).status_code == 405
