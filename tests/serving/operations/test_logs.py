# SPDX-License-Identifier: Apache-2.0
"""The log of a server: one line a request, as text or JSON; ids; no prompts and no keys unless they are asked for."""

import io
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from steerlm.serving.operations.logs import configure
from tests.serving.operations.conftest import ALICE, bearer

PROMPT = "xylophone"
CHAT = {
    "messages": [{"role": "user", "content": PROMPT}],
    "max_tokens": 3,
    "min_tokens": 3,
    "chat_template_kwargs": {"attributes": {"humor": 4}},
}


@pytest.fixture
def log(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What is logged in the form of the parameter."""
    root, written = logging.getLogger(), io.StringIO()
    before, level = root.handlers[:], root.level
    monkeypatch.setattr("sys.stderr", written)
    root.handlers.clear()
    configure(request.param)
    yield written
    root.handlers[:] = before
    root.setLevel(level)


@pytest.mark.parametrize("log", ["json"], indirect=True)
def test_json(log: io.StringIO, policy_folder: Path, serving: Callable[..., Any], keys: Callable[..., Path]) -> None:
    path = keys({"keys": {"alice": ALICE}})
    with serving(policy_folder, "generate", api_keys=path) as (url, app):
        with httpx.Client(base_url=url, headers=bearer(ALICE), timeout=60) as http:
            sane = http.post("/v1/chat/completions", json=CHAT, headers={"x-request-id": "trace-17:a/b=+@."})
            assert sane.headers["x-request-id"] == "trace-17:a/b=+@."
            ids = set()
            for wrong in ("", "a b", "x" * 129, "{evil}"):
                reply = http.post("/v1/chat/completions", json=CHAT | {"stream": True}, headers={"x-request-id": wrong})
                ids.add(reply.headers["x-request-id"])
            assert len(ids) == 4 and all(len(one) == 32 for one in ids)
            http.get(f"/no/%0a{PROMPT[:3]}")
            http.get("/livez")
            http.get("/metrics")
            app.state.service.submit = None  # an unexpected error
            failed = http.post("/v1/chat/completions", json=CHAT)
            assert failed.status_code == 500 and len(failed.headers["x-request-id"]) == 32
        httpx.get(url)
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    first, *streams, missing, broken, unauthorized = [line for line in lines if line["logger"] == "steerlm.access"]
    assert len(streams) == 4
    assert {name: first[name] for name in ("request_id", "key", "method", "route", "status", "attributes")} == {
        "request_id": "trace-17:a/b=+@.",
        "key": "alice",
        "method": "POST",
        "route": "/v1/chat/completions",
        "status": 200,
        "attributes": {"humor": 4},
    }
    assert first["prompt_tokens"] > 30 and first["generated_tokens"] == 3 and first["finish_reasons"] == ["length"]
    assert 0 < first["seconds"] < 60 and first["client"] == "127.0.0.1"
    assert {line["generated_tokens"] for line in streams} == {3}
    assert (missing["status"], missing["reason"], missing["route"]) == (404, "not_found", "other")
    assert missing["path"] == "/no/%0axyl"
    assert (broken["status"], broken["request_id"]) == (500, failed.headers["x-request-id"])
    (error,) = [line for line in lines if line["logger"] == "steerlm.serving.errors"]
    assert error["request_id"] == failed.headers["x-request-id"] and "Traceback" in error["exception"]
    assert (unauthorized["status"], unauthorized["reason"]) == (401, "unauthorized") and "key" not in unauthorized
    assert PROMPT not in log.getvalue() and ALICE not in log.getvalue()


@pytest.mark.parametrize("log", ["text"], indirect=True)
def test_text_for_people(log: io.StringIO, policy_folder: Path, serving: Callable[..., Any]) -> None:
    with serving(policy_folder, "generate") as (url, _):
        reply = httpx.post(f"{url}/v1/chat/completions", json=CHAT, headers={"x-request-id": "17"})
        assert reply.status_code == 200
    (line,) = [line for line in log.getvalue().splitlines() if "steerlm.access" in line]
    assert "127.0.0.1 POST /v1/chat/completions 200 in 0." in line
    assert line.endswith(" + 3 tokens, humor:4, request 17")
    assert PROMPT not in log.getvalue()


@pytest.mark.parametrize("log", ["json", "text"], indirect=True)
def test_prompts_if_asked_for(log: io.StringIO, policy_folder: Path, serving: Callable[..., Any]) -> None:
    with serving(policy_folder, "generate", log_prompts=True) as (url, _):
        httpx.post(f"{url}/v1/chat/completions", json=CHAT, timeout=60)
    (line,) = [line for line in log.getvalue().splitlines() if "steerlm.access" in line]
    assert PROMPT in line
    if line.startswith("{"):
        assert json.loads(json.loads(line)["body"]) == CHAT
