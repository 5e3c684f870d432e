# SPDX-License-Identifier: Apache-2.0
"""What clients see when the upstream is away, busy, refuses, breaks off or serves another model."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import pytest

from steerlm.cli.main import call
from steerlm.serving.upstream import client as client_module
from tests.serving.conftest import SCHEMA, WINDOW, running
from tests.serving.upstream.conftest import Answer, answering, send

BODY: dict[str, Any] = {"prompt": "A dog", "max_tokens": 2, "temperature": 0}


def fixed(value: Any, status: int = 200, **headers: str) -> Answer:
    return lambda handler, body: send(handler, status, json.dumps(value).encode(), **headers)


def listing(**fields: Any) -> Answer:
    return fixed({"object": "list", "data": [{"id": "policy", "max_model_len": WINDOW, **fields}]})


def completion(text: str = "x", **fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "text": text, "token_ids": [50], "finish_reason": "length", "logprobs": None}
    return {"choices": [{**choice, **fields}]}


class Switch:
    """Answers with a completion until it is given something else to do."""

    def __init__(self) -> None:
        self.answer: Answer = fixed(completion())

    def __call__(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        self.answer(handler, body)


@pytest.fixture(scope="module")
def switch() -> Switch:
    return Switch()


@pytest.fixture(scope="module")
def gateway(policy_folder: Path, switch: Switch) -> Iterator[str]:
    routes: dict[str, Answer] = {"/v1/models": listing(), "/v1/completions": switch, "/health": fixed({})}
    with (
        answering(routes) as upstream,
        running(policy_folder, "generate", upstream={"url": upstream}) as (url, _),
    ):
        yield url


def hang_up(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    handler.close_connection = True


ERROR = {"error": {"message": "too much", "type": "BadRequestError", "param": None, "code": 400}}
FAILURES: dict[str, tuple[Answer, int, str]] = {
    "refused": (fixed(ERROR, 400), 400, "too much"),
    "unprocessable": (fixed({"detail": "Unexpected fields"}, 422), 400, "Unexpected fields"),
    "busy": (fixed({"error": "full"}, 429), 429, "full"),
    "draining": (fixed({"error": "leaving"}, 503), 503, "leaving"),
    "key": (fixed({"error": "Unauthorized"}, 401), 502, "Unauthorized"),
    "failed": (fixed(ERROR, 500), 502, "too much"),
    "gone": (hang_up, 503, "does not answer"),
    "not JSON": (lambda handler, body: send(handler, 200, b"<html>"), 502, "JSON"),
    "no ids": (fixed(completion(token_ids=None)), 500, "return_token_ids"),
    "odd end": (fixed(completion(finish_reason="abort")), 500, "abort"),
    "odd token": (fixed(completion(token_ids=[99999])), 500, "99999"),
}


IN_THE_STREAM = ("not JSON", "no ids", "odd end", "odd token")
"""Failures that a stream reports by an event."""


@pytest.mark.parametrize(
    ("name", "stream"),
    [(name, stream) for name in FAILURES for stream in (False, True) if not (stream and name in IN_THE_STREAM)],
)
def test_a_failure_is_a_status(name: str, stream: bool, gateway: str, switch: Switch) -> None:
    answer, status, message = FAILURES[name]
    switch.answer = answer
    reply = httpx.post(f"{gateway}/v1/completions", json={**BODY, "stream": stream})
    assert reply.status_code == status
    error = reply.json()["error"]
    assert message in error["message"] and error["code"] == status
    assert "127.0.0.1" not in error["message"], "addresses are for the log"
    assert ("retry-after" in reply.headers) == (status in (429, 503))


def events(*lines: bytes) -> Answer:
    return lambda handler, body: send(handler, 200, b"".join(lines), content_type="text/event-stream")


def line(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


GOES_ON = line(completion(finish_reason=None))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (events(GOES_ON, line(ERROR)), "too much"),
        (events(GOES_ON), "ended its stream"),
        (events(GOES_ON, b"data: [DONE]\n\n"), "not complete"),
        (events(GOES_ON, b"data: {\n\n"), "JSON"),
    ],
    ids=["error", "end", "done", "damaged"],
)
def test_a_failure_within_a_stream_is_its_last_event(
    answer: Answer, message: str, gateway: str, switch: Switch
) -> None:
    switch.answer = answer
    reply = httpx.post(f"{gateway}/v1/completions", json={**BODY, "stream": True, "max_tokens": 9})
    assert reply.status_code == 200
    *_, last, end = reply.text.split("\n\n")
    assert end == "" and "[DONE]" not in reply.text
    assert message in json.loads(last.removeprefix("data: "))["error"]["message"]


def test_an_end_that_only_the_upstream_knows_is_an_end(gateway: str, switch: Switch) -> None:
    switch.answer = events(
        GOES_ON, line(completion("", token_ids=[], finish_reason="stop")), b": alive\n\n", b"data: [DONE]\n\n"
    )
    body = {**BODY, "stream": True, "max_tokens": 9, "stream_options": {"include_usage": True}}
    lines = httpx.post(f"{gateway}/v1/completions", json=body).text.split("\n\n")
    parsed = [json.loads(one[6:]) for one in lines if one.startswith("data: {")]
    assert parsed[-2]["choices"][0]["finish_reason"] == "stop"
    assert parsed[-1]["usage"]["completion_tokens"] == 1


def test_not_ready_while_the_upstream_is_away_and_ready_when_it_is_back(
    policy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "CHECK_SECONDS", 0.05)
    routes = {"/v1/models": listing(), "/v1/completions": fixed(completion()), "/health": fixed({})}
    with answering(routes) as upstream:
        port = int(upstream.rpartition(":")[2])
        server = running(policy_folder, "generate", upstream={"url": upstream})
        url, _ = server.__enter__()
        try:
            assert httpx.get(f"{url}/ready").status_code == 200
        except BaseException:
            server.__exit__(None, None, None)
            raise
    try:
        wait(lambda: httpx.get(f"{url}/ready").status_code == 503)
        away = httpx.post(f"{url}/v1/completions", json=BODY)
        assert (away.status_code, "retry-after" in away.headers) == (503, True)
        assert httpx.get(f"{url}/health").status_code == 200, "a restart of the gateway would not help"
        with answering({**routes, "/v1/models": listing(id="other")}, port):
            assert httpx.get(f"{url}/ready").status_code == 503, "another model"
        with answering(routes, port):
            wait(lambda: httpx.get(f"{url}/ready").status_code == 200)
            assert httpx.post(f"{url}/v1/completions", json=BODY).status_code == 200
    finally:
        server.__exit__(None, None, None)


def wait(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        threading.Event().wait(0.02)


START: dict[str, tuple[dict[str, Answer], dict[str, Any], str]] = {
    "no such model": ({"/v1/models": listing()}, {"model": "polici"}, "did you mean 'policy'"),
    "several": ({"/v1/models": fixed({"data": [{"id": "a"}, {"id": "b"}]})}, {}, "--upstream-model"),
    "none": ({"/v1/models": fixed({"data": []})}, {}, "lists no model"),
    "no server of models": ({}, {}, "OpenAI-compatible"),
    "key": ({"/v1/models": fixed({"error": "Unauthorized"}, 401)}, {}, "Unauthorized"),
    "tokenizer": ({"/v1/models": listing(), "/tokenize": fixed({"tokens": [1]})}, {}, "another model"),
    "attributes": (
        {"/v1/models": listing(), "/v1/model": fixed({"attributes": {"names": ["warm"]}})},
        {},
        "it is another model",
    ),
    "window": ({"/v1/models": listing(max_model_len=20)}, {}, "leaves no room"),
    "no ids": ({"/v1/models": listing(), "/v1/completions": fixed(completion(token_ids=None))}, {}, "return_token_ids"),
}


@pytest.mark.parametrize("name", START)
def test_a_wrong_upstream_fails_the_start(name: str, policy_folder: Path) -> None:
    routes, settings, message = START[name]
    with (
        answering(routes) as upstream,
        pytest.raises(AssertionError) as failure,
        running(policy_folder, "generate", upstream={"url": upstream, "seconds": 1, **settings}),
    ):
        pass
    assert message in str(failure.value)


def scores(value: float) -> Answer:
    def answer(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        rows = json.loads(body)["input"]
        assert all(isinstance(token, int) for row in rows for token in row), "token ids are sent"
        data = [{"index": index, "probs": [value] * len(SCHEMA.names)} for index in range(len(rows))]
        send(handler, 200, json.dumps({"data": data}).encode())

    return answer


def test_a_softmax_instead_of_scores_fails_the_start(reward_folder: Path) -> None:
    for value, message in ((1 / len(SCHEMA.names), "softmax"), (float("nan"), "not finite")):
        routes = {"/v1/models": listing(), "/classify": scores(value)}
        with (
            answering(routes) as upstream,
            pytest.raises(AssertionError, match=message),
            running(reward_folder, "reward", upstream={"url": upstream}),
        ):
            pass


def test_a_server_waits_for_its_upstream_and_sends_the_key(policy_folder: Path, tmp_path: Path) -> None:
    seen: list[str | None] = []

    def models(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        seen.append(handler.headers["authorization"])
        loading = len(seen) == 1
        (fixed({"error": "loading"}, 503) if loading else listing())(handler, body)

    (tmp_path / "key").write_text("secret\n")
    settings = {"seconds": 30, "key_file": tmp_path / "key"}
    with (
        answering({"/v1/models": models, "/v1/completions": fixed(completion())}) as upstream,
        running(policy_folder, "generate", upstream={"url": upstream, **settings}),
    ):
        assert seen == ["Bearer secret"] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--engine", "vllm"], "needs --upstream"),
        (["--upstream", "http://127.0.0.1:1"], "give --engine vllm too"),
        (["--engine", "vllm", "--upstream", "localhost:8000"], "http://127.0.0.1:8000"),
        (["--engine", "vllm", "--upstream", "http://127.0.0.1:9", "--upstream-seconds", "0.1"], "does not answer"),
        (["--engine", "vllm", "--upstream", "http://127.0.0.1:9", "--upstream-key-file", "/none"], "/none"),
    ],
)
def test_options(options: list[str], message: str, policy_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status = call(["serve", "generate", str(policy_folder), "--port", "0", *options])
    error = capfd.readouterr().err
    assert message in error
    assert status == (1 if "does not answer" in message else 2)
    assert "Traceback" not in error
