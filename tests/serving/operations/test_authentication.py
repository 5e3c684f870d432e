# SPDX-License-Identifier: Apache-2.0
"""API keys over HTTP: who is refused and how, as the openai and Triton clients see it; rotation under load; limits."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from steerlm.cli.main import call
from steerlm.serving.errors import ApiError
from steerlm.serving.operations import keys as keys_file
from steerlm.serving.operations.key_limits import KeyUsage, TokenBucket
from steerlm.serving.operations.keys import KeyLimits
from tests.serving.operations.conftest import ALICE, BOB, bearer, samples, total

TURN = "<extra_id_1>User\nA dog\n<extra_id_2>"
CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, "min_tokens": 2}
OPEN = ("/health", "/ready", "/livez", "/readyz", "/startupz")


@pytest.fixture(scope="module")
def guarded(
    policy_folder: Path, reward_folder: Path, serving: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    path = tmp_path_factory.mktemp("keys") / "keys.yaml"
    path.write_text(f"keys: {{alice: {ALICE}, bob: {BOB}}}")
    with (
        serving(policy_folder, "generate", api_keys=path, cors_origins=["https://studio.example"]) as (policy, _),
        serving(reward_folder, "reward", api_keys=path, open_metrics=True) as (reward, _),
    ):
        yield {"generate": policy, "reward": reward}


@pytest.mark.parametrize("role", ["generate", "reward"])
def test_every_route_but_probes_asks_for_a_key_in_the_same_words(role: str, guarded: dict[str, str]) -> None:
    url = guarded[role]
    paths = httpx.get(f"{url}/openapi.json", headers=bearer(ALICE)).json()["paths"]
    asked = {(method, path.replace("{", "").replace("}", "")) for path, methods in paths.items() for method in methods}
    asked |= {
        ("get", "/"),
        ("get", "/docs"),
        ("get", "/openapi.json"),
        ("get", "/no/such/route"),
        ("options", "/v1/model"),
    }
    asked |= {("get", "/Health"), ("get", "/health/"), ("get", "//health"), ("post", "/studio"), ("get", "/studios")}
    bodies: dict[bool, set[str]] = {}
    opened = {*OPEN, "/v2/health/live", "/v2/health/ready"} | ({"/metrics"} if role == "reward" else set())
    for method, path in sorted(asked):
        for headers in ({}, bearer("wrong" * 8), {"authorization": f"Basic {ALICE}"}, {"authorization": ALICE}):
            reply = httpx.request(method, url + path, headers=headers)
            if path in opened:
                assert reply.status_code == 200, path
                continue
            assert (reply.status_code, reply.headers["www-authenticate"]) == (401, "Bearer"), path
            bodies.setdefault(path.startswith("/v2"), set()).add(reply.text)
    assert all(len(texts) == 1 for texts in bodies.values()), "a body says nothing of routes and keys"
    error = httpx.get(url).json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("AuthenticationError", 401, None)
    for path in ("/", "/docs", "/v1/models", "/metrics"):
        assert httpx.get(url + path, headers=bearer(BOB)).status_code == 200


def test_the_openai_client(guarded: dict[str, str]) -> None:
    url = f"{guarded['generate']}/v1"
    messages: Any = CHAT["messages"]
    with openai.OpenAI(base_url=url, api_key=ALICE, max_retries=0) as client:
        assert client.chat.completions.create(model="policy", messages=messages, max_tokens=2).choices
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError, match="no valid API key"):
            client.chat.completions.create(model="policy", messages=messages, max_tokens=2)
        with pytest.raises(openai.AuthenticationError):
            client.models.list()


def test_the_triton_client(guarded: dict[str, str]) -> None:
    rows = np.array([[TURN.encode()]], dtype=np.object_)
    sentences = triton.InferInput("sentences", list(rows.shape), "BYTES")
    sentences.set_data_from_numpy(rows)
    with triton.InferenceServerClient(guarded["reward"].removeprefix("http://")) as client:
        assert client.is_server_live() and client.is_server_ready()
        with pytest.raises(InferenceServerException, match=r"401.*no valid API key"):
            client.infer("reward_model", [sentences])
        headers = {"Authorization": f"Bearer {ALICE}"}
        assert client.is_model_ready("reward_model", headers=headers)
        assert client.infer("reward_model", [sentences], headers=headers).as_numpy("rewards").shape == (1, 4)


def test_our_own_clients_take_the_key_of_the_environment(
    guarded: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    turns = [{"from": "User", "value": "Why?"}, {"from": "Assistant", "value": "So."}]
    line = {"system": "", "mask": "User", "conversations": turns}
    (tmp_path / "in.jsonl").write_text(json.dumps(line) + "\n")
    files = ["--input-file", str(tmp_path / "in.jsonl"), "--output-file", str(tmp_path / "out.jsonl")]
    for words in (
        ["ask", "Why?", "--url", guarded["generate"], "--max-tokens", "2"],
        ["annotate", *files, "--url", guarded["reward"]],
    ):
        monkeypatch.delenv("STEERLM_API_KEY", raising=False)
        assert call(words) == 2
        assert "asks for an API key: set STEERLM_API_KEY" in capsys.readouterr().err
        monkeypatch.setenv("STEERLM_API_KEY", ALICE)
        assert call(words) == 0, capsys.readouterr().err
    assert (tmp_path / "out.jsonl").exists()


def test_a_page_of_an_allowed_origin_learns_why_it_is_refused(guarded: dict[str, str]) -> None:
    origin = {"origin": "https://studio.example"}
    ask = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    url = f"{guarded['generate']}/v1/chat/completions"
    preflight = httpx.options(url, headers=origin | ask)
    assert preflight.status_code == 200 and "authorization" in preflight.headers["access-control-allow-headers"]
    refused = httpx.post(url, json=CHAT, headers=origin)
    assert refused.status_code == 401 and refused.headers["access-control-allow-origin"] == origin["origin"]
    assert httpx.post(url, json=CHAT, headers=origin | bearer(ALICE), timeout=60).status_code == 200


def test_the_static_files_of_the_studio_need_no_key(guarded: dict[str, str]) -> None:
    for path in ("/studio", "/studio/", "/studio/app.js"):
        assert httpx.get(guarded["reward"] + path).status_code == 404, "as if there were no keys"


def test_a_body_without_a_key_is_not_read(guarded: dict[str, str]) -> None:
    reply = httpx.post(f"{guarded['reward']}/v1/score", content=b"x" * (32 << 20))
    assert reply.status_code == 401, "not 413"


def test_names_of_keys_are_counted(guarded: dict[str, str]) -> None:
    url = guarded["reward"]
    before = samples(url)
    assert httpx.post(f"{url}/v1/score", json={"texts": [TURN]}, headers=bearer(BOB)).status_code == 200
    httpx.post(f"{url}/v1/score", json={"texts": [TURN]}, headers=bearer("none"))
    after = samples(url)

    def grown(name: str, **labels: str) -> float:
        return total(after, name, **labels) - total(before, name, **labels)

    assert grown("steerlm_http_requests_total", key="bob", status="200", route="/v1/score") == 1
    assert grown("steerlm_key_tokens_total", key="bob", kind="prompt") > 5
    assert grown("steerlm_refused_requests_total", reason="unauthorized") == 1
    assert grown("steerlm_http_requests_total", key="", status="401", route="/v1/score") == 1
    assert not any(ALICE in str(labels) or BOB in str(labels) for labels in after)


def test_keys_rotate_under_load_without_a_failed_request(
    reward_folder: Path, serving: Callable[..., Any], keys: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new key is added, clients change to it, the old one is removed."""
    monkeypatch.setattr(keys_file, "CHECK_SECONDS", 0.02)
    path, key, statuses = keys({"keys": {"old": ALICE}}), ALICE, list[int]()

    async def client(http: httpx.AsyncClient, done: asyncio.Event) -> None:
        while not done.is_set():
            reply = await http.post("/v1/score", json={"texts": [TURN]}, headers=bearer(key))
            statuses.append(reply.status_code)

    async def rotate(url: str) -> None:
        nonlocal key
        done = asyncio.Event()
        async with httpx.AsyncClient(base_url=url, timeout=60) as http:
            clients = [asyncio.create_task(client(http, done)) for _ in range(8)]

            async def answers(wanted: str, status: int) -> None:
                while (await http.get("/v1/model", headers=bearer(wanted))).status_code != status:
                    await asyncio.sleep(0.01)

            for file in ({"old": ALICE, "new": BOB}, {"new": BOB}):
                keys({"keys": file})
                await answers(BOB, 200)
                key = BOB
                # Requests with the old key are through when as many more as there are clients were answered.
                seen = len(statuses)
                while len(statuses) < seen + 16:
                    await asyncio.sleep(0.01)
            await answers(ALICE, 401)
            done.set()
            await asyncio.gather(*clients)

    with serving(reward_folder, "reward", api_keys=path) as (url, _):
        asyncio.run(asyncio.wait_for(rotate(url), 60))
    assert set(statuses) == {200} and len(statuses) > 40


def test_limits_are_refused_with_their_name_and_the_time_to_wait(
    policy_folder: Path, serving: Callable[..., Any], keys: Callable[..., Path]
) -> None:
    path = keys(
        {
            "limits": {"requests_per_minute": 2},
            "keys": {
                "alice": ALICE,
                "bob": {"key": BOB, "requests_per_minute": None, "tokens_per_minute": 60},
                "carol": {"key": "carol" * 4, "requests_per_minute": None, "concurrent_requests": 1},
            },
        }
    )
    with serving(policy_folder, "generate", api_keys=path, open_metrics=True) as (url, _):

        def ask(key: str, **more: Any) -> httpx.Response:
            return httpx.post(f"{url}/v1/chat/completions", json=CHAT | more, headers=bearer(key), timeout=60)

        assert [ask(ALICE).status_code for _ in range(3)] == [200, 200, 429]
        refused = ask(ALICE)
        error = refused.json()["error"]
        assert error["type"] == "RateLimitError"
        assert "'alice' has reached its limit of 2 requests per minute; try again in" in error["message"]
        assert 20 < int(refused.headers["retry-after"]) <= 30
        assert httpx.get(f"{url}/v1/models", headers=bearer(ALICE)).status_code == 200, "only work is limited"
        with openai.OpenAI(base_url=f"{url}/v1", api_key=ALICE, max_retries=0) as client:
            messages: Any = CHAT["messages"]
            with pytest.raises(openai.RateLimitError, match="requests per minute"):
                client.chat.completions.create(model="policy", messages=messages)

        assert [ask(BOB).status_code for _ in range(2)] == [200, 429], "one prompt has more tokens than a minute's"
        assert "tokens per minute" in ask(BOB).json()["error"]["message"]

        body = CHAT | {"stream": True, "max_tokens": 200, "min_tokens": 200}
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, headers=bearer("carol" * 4)) as first:
            parts = first.iter_bytes()
            next(parts)
            busy = ask("carol" * 4)
            assert busy.status_code == 429 and "1 concurrent requests" in busy.json()["error"]["message"]
        deadline = time.monotonic() + 30
        while ask("carol" * 4).status_code == 429:
            assert time.monotonic() < deadline
        found = samples(url)
        asked = {"route": "/v1/chat/completions", "method": "POST"}
        assert total(found, "steerlm_http_requests_total", **asked, status="429", key="alice") == 3
        assert total(found, "steerlm_http_requests_total", status="429", route="other") == 0
        assert total(found, "steerlm_refused_requests_total", reason="requests_per_minute") == 3
        assert total(found, "steerlm_refused_requests_total", reason="tokens_per_minute") == 2
        assert total(found, "steerlm_refused_requests_total", reason="concurrent_requests") >= 1
        assert total(found, "steerlm_refused_requests_total", reason="client_closed") == 1


def test_a_budget_refills_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("steerlm.serving.operations.key_limits.time", SimpleNamespace(monotonic=lambda: now))
    bucket = TokenBucket(60)
    bucket.spend(90)
    assert bucket.wait() == 31
    now += 31
    assert bucket.wait() == 0
    now += 1000
    assert bucket.wait() == 0
    bucket.spend(60)
    assert bucket.wait() == 1, "never more than a minute's budget"


def test_a_request_that_is_refused_uses_nothing() -> None:
    usage = KeyUsage("alice", KeyLimits(requests_per_minute=1))
    usage.enter()
    for _ in range(3):
        with pytest.raises(ApiError, match="in 60 s") as refusal:
            usage.enter()
        assert refusal.value.retry_after == 60
    usage.leave()
    assert usage.running == 0
