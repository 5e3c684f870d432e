# SPDX-License-Identifier: Apache-2.0
"""`/v1/completions` and log-probabilities through the unmodified `openai` client; full queues, disconnects."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch

from steerlm.inference.loading import load
from steerlm.prompt import render_prompt
from steerlm.records import Turn
from tests.serving.conftest import ANSWERS, QUESTION, SCHEMA

PROMPT = render_prompt([Turn(value=QUESTION, speaker="User")], SCHEMA.format(SCHEMA.complete({"humor": 4})))
LONG = {"prompt": "A dog", "max_tokens": 300, "min_tokens": 300, "temperature": 9.0}


@pytest.fixture(scope="module")
def client(policy_server: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{policy_server}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def loaded(policy_folder: Path) -> Any:
    return load(policy_folder, head=False)


def greedy(loaded: Any, prompt: str, tokens: int) -> tuple[list[int], list[int]]:
    """(prompt ids, the greedy continuation of transformers' own `generate`)."""
    ids = loaded.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    out = loaded.model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=tokens)[0].tolist()
    return ids, out[len(ids) :]


def logs(loaded: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        values: torch.Tensor = loaded.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return values


def test_the_exact_prompt(taught_server: str) -> None:
    with openai.OpenAI(base_url=f"{taught_server}/v1", api_key="none") as client:
        reply = client.completions.create(model="taught", prompt=PROMPT, temperature=0)
        assert (reply.object, reply.choices[0].text, reply.choices[0].finish_reason) == (
            "text_completion",
            ANSWERS[4],
            "stop",
        )
        assert reply.usage is not None and reply.usage.total_tokens > reply.usage.prompt_tokens > 20
        stream = client.completions.create(
            model="taught", prompt=PROMPT, temperature=0, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
    assert "".join(c.choices[0].text for c in chunks if c.choices) == ANSWERS[4]
    assert chunks[-1].usage == reply.usage and chunks[-2].choices[0].finish_reason == "stop"


def test_every_form_of_a_prompt(client: openai.OpenAI, loaded: Any) -> None:
    prompts = ["What is a good pet?", "A dog, a"]
    pairs = [greedy(loaded, prompt, 9) for prompt in prompts]
    expected = [loaded.tokenizer.decode(out, skip_special_tokens=True) for _, out in pairs]
    ids = [ids for ids, _ in pairs]
    for form, answers in ((prompts[0], expected[:1]), (ids[0], expected[:1]), (prompts, expected), (ids, expected)):
        reply = client.completions.create(model="policy", prompt=form, max_tokens=9, temperature=0)
        assert [choice.text for choice in reply.choices] == answers
        assert reply.usage is not None
        assert reply.usage.prompt_tokens == sum(map(len, ids[: len(answers)]))
    default = client.completions.create(model="policy", prompt=prompts[0], extra_body={"min_tokens": 16})
    assert default.usage is not None and default.usage.completion_tokens == 16


def test_n_seeds_stop_and_streams_agree(client: openai.OpenAI) -> None:
    request_body: dict[str, Any] = {
        "model": "policy",
        "prompt": ["A dog", "A cat"],
        "n": 2,
        "seed": 3,
        "max_tokens": 12,
    }
    whole = [choice.text for choice in client.completions.create(**request_body).choices]
    assert len(set(whole)) == 4
    assert [choice.text for choice in client.completions.create(**request_body).choices] == whole
    streamed = ["", "", "", ""]
    for chunk in client.completions.create(**request_body, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert streamed == whole
    text = client.completions.create(model="policy", prompt="A dog", max_tokens=12, temperature=0).choices[0].text
    cut = client.completions.create(model="policy", prompt="A dog", max_tokens=12, temperature=0, stop=text[3:5])
    assert cut.choices[0].text == text[: text.index(text[3:5])]


def test_logprobs_and_echo(client: openai.OpenAI, loaded: Any) -> None:
    prompt = "What is a good pet?"
    ids, out = greedy(loaded, prompt, 7)
    table = logs(loaded, ids + out)
    for echo in (False, True):
        reply = client.completions.create(
            model="policy", prompt=prompt, max_tokens=7, temperature=0, logprobs=3, echo=echo
        )
        choice = reply.choices[0]
        reported = choice.logprobs
        assert (
            reported is not None
            and reported.tokens
            and reported.token_logprobs
            and reported.top_logprobs
            and reported.text_offset
        )
        first = 0 if echo else len(ids)
        all_ids = (ids + out)[first:]
        assert choice.text == prompt * echo + loaded.tokenizer.decode(out, skip_special_tokens=True)
        assert len(reported.tokens) == len(all_ids)
        assert reported.text_offset == [sum(map(len, reported.tokens[:k])) for k in range(len(all_ids))]
        for k, token in enumerate(all_ids):
            at = first + k
            if at == 0:
                assert reported.token_logprobs[0] is None and reported.top_logprobs[0] is None
                continue
            assert reported.token_logprobs[k] == pytest.approx(float(table[at - 1, token]), abs=1e-4)
            best = sorted(reported.top_logprobs[k].values(), reverse=True)
            assert best[:2] == pytest.approx(table[at - 1].topk(2).values.tolist(), abs=1e-4)
    chunks = client.completions.create(
        model="policy", prompt=prompt, max_tokens=7, temperature=0, logprobs=3, echo=True, stream=True
    )
    parts = [chunk.choices[0] for chunk in chunks]
    assert reported is not None
    assert "".join(part.text for part in parts) == choice.text
    assert [x for part in parts if part.logprobs for x in part.logprobs.tokens or []] == reported.tokens
    assert [x for part in parts if part.logprobs for x in part.logprobs.text_offset or []] == reported.text_offset


def test_logprobs_of_a_chat(client: openai.OpenAI, loaded: Any) -> None:
    request_body: dict[str, Any] = {
        "model": "policy",
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": 8,
        "seed": 5,
        "logprobs": True,
        "top_logprobs": 4,
        "extra_body": {"min_tokens": 8},
    }
    reply = client.chat.completions.create(**request_body)
    reported = reply.choices[0].logprobs
    assert reported is not None and reported.content is not None and len(reported.content) == 8
    for entry in reported.content:
        values = [top.logprob for top in entry.top_logprobs]
        assert len(values) == 4 and values == sorted(values, reverse=True) and entry.logprob <= values[0] < 0
        assert entry.bytes is None or bytes(entry.bytes).decode() == entry.token
    prompt = render_prompt([Turn(value=QUESTION, speaker="User")], SCHEMA.format(SCHEMA.complete({})))
    table = logs(loaded, loaded.tokenizer(prompt, add_special_tokens=False)["input_ids"])
    first = [top.logprob for top in reported.content[0].top_logprobs]
    assert first == pytest.approx(table[-1].topk(4).values.tolist(), abs=1e-4)
    streamed = [chunk.choices[0].logprobs for chunk in client.chat.completions.create(**request_body, stream=True)]
    assert [entry for one in streamed if one for entry in one.content or []] == reported.content
    plain = client.chat.completions.create(**{**request_body, "logprobs": False, "top_logprobs": None})
    assert plain.choices[0].logprobs is None and plain.choices[0].message == reply.choices[0].message


def test_bad_requests_are_refused_by_name(policy_server: str) -> None:
    cases: list[tuple[dict[str, Any], str | None, str]] = [
        ({}, "prompt", "prompt is missing"),
        ({"prompt": ""}, "prompt", "prompt is empty"),
        ({"prompt": ["a", ""]}, "prompt[1]", "prompt is empty"),
        ({"prompt": []}, "n", "1 to 128"),
        ({"prompt": ["a"] * 65, "n": 2}, "n", "1 to 128"),
        ({"prompt": [5, 100000]}, "prompt", "token id 100000"),
        ({"prompt": [-1]}, None, "prompt"),
        ({"prompt": [True]}, None, "prompt"),
        ({"prompt": ["a", 5]}, None, "prompt"),
        ({"prompt": "pet " * 600}, "prompt", "window is 400"),
        ({"prompt": "a", "max_tokens": 400}, "max_tokens", "window is 400"),
        ({"prompt": "a", "logprobs": 21}, "logprobs", "at most 20"),
        ({"prompt": "a", "suffix": "b"}, "suffix", "not supported"),
        ({"prompt": "a", "best_of": 3}, "best_of", "not supported"),
        ({"prompt": "\ud800"}, None, "not valid Unicode"),
    ]
    for body, param, message in cases:
        content, kind = json.dumps(body).encode(), {"Content-Type": "application/json"}
        reply = httpx.post(f"{policy_server}/v1/completions", content=content, headers=kind, timeout=60)
        error = reply.json()["error"]
        assert reply.status_code == 400 and message in error["message"], error
        assert param is None or error["param"] == param


def test_a_limit_of_tokens(policy_folder: Path, serving: Callable[..., Any]) -> None:
    with serving(policy_folder, "generate", max_tokens=5) as (url, _):
        chat = {"messages": [{"role": "user", "content": "Hi"}], "min_tokens": 50}
        reply = httpx.post(f"{url}/v1/chat/completions", json=chat, timeout=60)
        assert reply.json()["usage"]["completion_tokens"] == 5
        for route, method, body, param in (
            ("/v1/chat/completions", "POST", {**chat, "max_tokens": 6}, "max_tokens"),
            ("/v1/completions", "POST", {"prompt": "a", "max_tokens": 6}, "max_tokens"),
            ("/generate", "PUT", {"sentences": ["a"], "tokens_to_generate": 6}, "tokens_to_generate"),
        ):
            error = httpx.request(method, url + route, json=body).json()["error"]
            assert "at most 5" in error["message"] and error["param"] == param


def test_a_full_queue_is_429_until_a_client_disconnects(policy_folder: Path, serving: Callable[..., Any]) -> None:
    with serving(policy_folder, "generate", max_in_flight=2) as (url, app):
        engine = app.state.service.engine
        streams = [httpx.Client() for _ in range(2)]
        lines = []
        for stream in streams:
            request = stream.build_request("POST", f"{url}/v1/completions", json={**LONG, "stream": True}, timeout=60)
            # Kept: a collected iterator closes its connection.
            lines.append(stream.send(request, stream=True).iter_lines())
            assert next(lines[-1])
        refused = httpx.post(f"{url}/v1/completions", json={"prompt": "a"})
        assert (refused.status_code, refused.json()["error"]["type"]) == (429, "RateLimitError")
        assert int(refused.headers["retry-after"]) > 0
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        with client, pytest.raises(openai.RateLimitError, match="2 answers in flight"):
            client.completions.create(model="policy", prompt="a")
        assert httpx.get(f"{url}/health").status_code == 200
        for stream in streams:
            stream.close()
        until(lambda: not engine.requests)
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=5) as client:
            assert client.completions.create(model="policy", prompt="a", max_tokens=1).usage is not None


def test_every_answer_holds_a_slot(policy_folder: Path, serving: Callable[..., Any]) -> None:
    chat = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    cases: list[tuple[str, str, dict[str, Any], Callable[[int], dict[str, Any]]]] = [
        ("POST", "/v1/completions", {"prompt": "a", "max_tokens": 2}, lambda n: {"n": n}),
        ("POST", "/v1/completions", {"max_tokens": 2}, lambda n: {"prompt": ["a"] * n}),
        ("POST", "/v1/chat/completions", chat, lambda n: {"n": n}),
        ("PUT", "/generate", {"tokens_to_generate": 2}, lambda n: {"sentences": ["a"] * n}),
    ]
    with serving(policy_folder, "generate", max_in_flight=4) as (url, app), httpx.Client() as stream:
        request = stream.build_request("POST", f"{url}/v1/completions", json={**LONG, "n": 2, "stream": True})
        lines = stream.send(request, stream=True).iter_lines()
        assert next(lines)
        for method, route, body, of in cases:
            replies = [httpx.request(method, url + route, json={**body, **of(n)}) for n in (2, 3, 5)]
            assert [reply.status_code for reply in replies] == [200, 429, 400], route
            assert "2 answers in flight and 3 more would exceed its limit of 4" in replies[1].text
            assert int(replies[1].headers["retry-after"]) > 0
            assert "5 answers to one request; this server generates at most 4" in replies[2].text
        assert app.state.in_flight == 2
        stream.close()
        until(lambda: not app.state.in_flight)
        method, route, body, of = cases[0]
        assert httpx.request(method, url + route, json={**body, **of(4)}).status_code == 200


def until(true: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("method", "route", "body"),
    [
        ("POST", "/v1/completions", {**LONG, "n": 2}),
        ("POST", "/v1/completions", {**LONG, "n": 2, "stream": True}),
        ("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "min_tokens": 250}),
        ("PUT", "/generate", {"sentences": ["A dog", "A"], "tokens_to_generate": 300, "min_tokens_to_generate": 300}),
    ],
)
def test_a_disconnect_cancels_the_request(
    method: str, route: str, body: dict[str, Any], policy_folder: Path, serving: Callable[..., Any]
) -> None:
    with serving(policy_folder, "generate") as (url, app):
        engine = app.state.service.engine
        # So slow that no answer is complete before the client disconnects.
        forward = engine.model.forward

        def slow(*arguments: Any, **more: Any) -> Any:
            time.sleep(0.02)
            return forward(*arguments, **more)

        engine.model.forward = slow
        host, port = url.removeprefix("http://").split(":")
        content = json.dumps(body).encode()
        with socket.create_connection((host, int(port))) as connection:
            head = f"{method} {route} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
            until(lambda: bool(engine.requests))
        left = time.monotonic()
        until(lambda: not engine.requests)
        assert time.monotonic() - left < 3  # a complete answer takes five
        assert engine.healthy


def test_a_failure_in_a_stream_reaches_the_client(policy_folder: Path, serving: Callable[..., Any]) -> None:
    with serving(policy_folder, "generate") as (url, app):
        engine = app.state.service.engine
        forward, started = engine.model.forward, threading.Event()

        def dying(*arguments: Any, **more: Any) -> Any:
            if started.is_set():
                raise RuntimeError("device lost")
            return forward(*arguments, **more)

        engine.model.forward = dying
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            stream = client.completions.create(
                model="policy", prompt="A dog", max_tokens=300, extra_body={"min_tokens": 300}, stream=True
            )
            with pytest.raises(openai.APIError, match=r"failed|died"):
                for _ in stream:
                    started.set()
            until(lambda: not engine.healthy)
            for streamed in (True, False):
                with pytest.raises(openai.InternalServerError, match="is not running"):
                    client.completions.create(model="policy", prompt="A dog", stream=streamed)
