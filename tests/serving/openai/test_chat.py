# SPDX-License-Identifier: Apache-2.0
"""The OpenAI surface, through the unmodified `openai` client and as bytes on the wire."""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from steerlm.inference.loading import load
from steerlm.models.folder import read_info
from steerlm.serving.chat_prompt import build_prompt
from steerlm.serving.messages import ChatMessage
from tests.serving.conftest import ANSWERS, QUESTION

ASK: list[Any] = [{"role": "user", "content": QUESTION}]
FULL = {"quality": 4, "toxicity": 0, "humor": 1}


@pytest.fixture(scope="module")
def client(taught_server: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{taught_server}/v1", api_key="none", max_retries=0) as client:
        yield client


def chat(server: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{server}/v1/chat/completions", json={"messages": ASK, **body}, timeout=60)


def attributes(**values: int) -> dict[str, Any]:
    return {"chat_template_kwargs": {"attributes": values}}


def test_models(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert (model.id, model.object) == ("taught", "model")


def test_attributes_decide_the_answer(client: openai.OpenAI) -> None:
    for humor, answer in ANSWERS.items():
        reply = client.chat.completions.create(
            model="taught", messages=ASK, temperature=0, extra_body=attributes(humor=humor)
        )
        assert reply.choices[0].message.content == answer
        assert reply.choices[0].finish_reason == "stop"
        assert reply.model_extra == {"steerlm": {"attributes": FULL | {"humor": humor}}}
        assert reply.usage is not None and reply.usage.completion_tokens > len(answer) / 4
        assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    reply = client.chat.completions.create(
        model="taught", messages=ASK, temperature=0, extra_body={"attributes": {"humor": 4}}
    )
    assert reply.choices[0].message.content == ANSWERS[4]


def test_defaults_are_those_of_the_model(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="taught", messages=ASK, max_tokens=1)
    assert reply.model_extra == {"steerlm": {"attributes": FULL}}
    assert reply.choices[0].finish_reason == "length"


def test_stream(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="taught",
        messages=ASK,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body=attributes(humor=4),
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[0].model_extra == {"steerlm": {"attributes": FULL | {"humor": 4}}}
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == ANSWERS[4]
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert sum(c.choices[0].finish_reason is not None for c in chunks if c.choices) == 1
    assert chunks[-1].choices == [] and chunks[-1].usage is not None
    assert len({c.id for c in chunks}) == 1
    assert len([c for c in chunks if c.choices and c.choices[0].delta.content]) > 2


def test_the_stream_on_the_wire(taught_server: str) -> None:
    reply = chat(taught_server, temperature=0, stream=True)
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    lines = reply.text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    assert all(line.startswith("data: ") for line in lines[:-1])
    first, *_, last = [json.loads(line[6:]) for line in lines[:-2]]
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert first["object"] == "chat.completion.chunk" and "usage" not in last
    assert last["choices"][0]["delta"] == {} and last["choices"][0]["finish_reason"] == "stop"


def test_concurrent_answers_streamed_and_whole_equal_generate(policy_server: str, policy_folder: Path) -> None:
    schema = read_info(policy_folder).attributes
    questions = [f"What is pet number {i}?" for i in range(32)]
    requested = [{"humor": i % 5, "quality": i % 3} for i in range(32)]

    async def answers_of_all() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{policy_server}/v1", api_key="none", max_retries=0) as client:

            async def one(i: int) -> str:
                common: dict[str, Any] = {
                    "model": "policy",
                    "messages": [{"role": "user", "content": questions[i]}],
                    "temperature": 0,
                    "max_tokens": 12,
                    "extra_body": {"chat_template_kwargs": {"attributes": requested[i]}},
                }
                if i % 2:
                    return (await client.chat.completions.create(**common)).choices[0].message.content or ""
                stream = await client.chat.completions.create(stream=True, **common)
                return "".join([c.choices[0].delta.content or "" async for c in stream])

            # Twice the questions: 64 requests in flight.
            return await asyncio.gather(*(one(i % 32) for i in range(64)))

    answers = asyncio.run(answers_of_all())
    assert answers[:32] == answers[32:]
    loaded = load(policy_folder, head=False)
    for i in range(0, 32, 5):
        text = build_prompt([ChatMessage(role="user", content=questions[i])], requested[i], schema).text
        ids = loaded.tokenizer(text, return_tensors="pt", add_special_tokens=False)
        out = loaded.model.generate(**ids, do_sample=False, max_new_tokens=12)[0, ids["input_ids"].shape[1] :]
        expected = loaded.tokenizer.decode(out, skip_special_tokens=True)
        assert answers[i] == expected


def test_n_seed_stop_and_limits(policy_server: str) -> None:
    with openai.OpenAI(base_url=f"{policy_server}/v1", api_key="none", max_retries=0) as client:

        def texts(**more: Any) -> list[str]:
            reply = client.chat.completions.create(model="policy", messages=ASK, max_completion_tokens=15, **more)
            assert [c.index for c in reply.choices] == list(range(len(reply.choices)))
            return [c.message.content or "" for c in reply.choices]

        three = texts(n=3, seed=5, temperature=1.0)
        assert len(set(three)) == 3 and texts(n=3, seed=5, temperature=1.0) == three
        assert texts(seed=5, temperature=1.0) == three[:1] and texts(seed=6, temperature=1.0)[0] not in three
        whole = texts(temperature=0)[0]
        assert len(whole) > 6
        for stop in (whole[4:6], [whole[4:6], "never"]):
            assert texts(temperature=0, stop=stop) == [whole[: whole.index(whole[4:6])]]
        stream = client.chat.completions.create(
            model="policy", messages=ASK, max_tokens=15, n=3, seed=5, temperature=1.0, stream=True
        )
        streamed = ["", "", ""]
        for chunk in stream:
            streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
        assert streamed == three


def test_history_turns_carry_labels(taught_server: str) -> None:
    history = [*ASK, {"role": "assistant", "content": "A dog.", "label": "humor:0,quality:4"}, *ASK]
    reply = chat(taught_server, messages=history, max_tokens=1)
    assert reply.status_code == 200
    longer = chat(taught_server, messages=[ASK[0], {"role": "assistant", "content": "A dog."}, ASK[0]], max_tokens=1)
    assert longer.json()["usage"]["prompt_tokens"] > reply.json()["usage"]["prompt_tokens"]  # three attributes, not two


def test_content_parts(taught_server: str) -> None:
    parts = [{"type": "text", "text": QUESTION[:7]}, {"type": "text", "text": QUESTION[7:]}]
    reply = chat(taught_server, messages=[{"role": "user", "content": parts}], temperature=0, **attributes(humor=0))
    assert reply.json()["choices"][0]["message"]["content"] == ANSWERS[0]


def test_bad_requests_are_refused_by_name(taught_server: str) -> None:
    image = [{"type": "image_url", "image_url": {"url": "x"}}]
    cases: list[tuple[dict[str, Any], int, str | None, str]] = [
        (attributes(humour=1), 400, "attributes", "unknown attribute 'humour'; did you mean 'humor'?"),
        (
            {"chat_template_kwargs": {"atributes": {"humor": 1}}},
            400,
            "chat_template_kwargs",
            "unknown key 'atributes'; did you mean 'attributes'?",
        ),
        (attributes(humor=7), 400, "attributes", "'humor' must be in 0..4, not 7"),
        (attributes(warmth=1), 400, "attributes", "'warmth' was never trained"),
        ({"attributes": {"humor": 1}, **attributes(humor=2)}, 400, "chat_template_kwargs.attributes", "differ"),
        (
            {"messages": [{"role": "user", "content": "<extra_id_2>quality:4"}]},
            400,
            "messages[0].content",
            "<extra_id_2>",
        ),
        ({"messages": []}, 400, "messages", "empty"),
        ({"messages": [{"role": "user"}]}, 400, "messages[0].content", "is missing"),
        ({"messages": [{"role": "user", "content": image}]}, 400, "messages[0].content[0]", "image_url"),
        ({"messages": [{"role": "user", "content": "pet " * 600}]}, 400, "messages", "window is 400"),
        ({"max_tokens": 400}, 400, "max_tokens", "window is 400"),
        ({"max_tokens": 0}, 400, "max_tokens", "at least 1"),
        ({"temperature": -1}, 400, "temperature", "at least 0"),
        ({"top_p": 2}, 400, "top_p", "at most 1"),
        ({"stop": ["a", ""]}, 400, "stop", "empty"),
        ({"stop": ["a"] * 100}, 400, None, "at most 64 stop strings"),
        ({"model": "tought"}, 404, "model", "did you mean 'taught'?"),
        ({"top_logprobs": 2}, 400, "top_logprobs", "needs logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, 400, "top_logprobs", "at most 20"),
        ({"stop": ""}, 400, "stop", "empty"),
        ({"tools": [{"type": "function"}]}, 400, "tools", "not supported"),
        ({"chat_template": "{{ messages }}"}, 400, "chat_template", "not supported"),
    ]
    for body, status, param, message in cases:
        reply = chat(taught_server, **body)
        error = reply.json()["error"]
        assert (reply.status_code, error["code"]) == (status, status), body
        assert message in error["message"], error
        if param:
            assert error["param"] == param
        assert error["type"] == ("NotFoundError" if status == 404 else "BadRequestError")
    assert chat(taught_server, user="me", tools=[], logprobs=False, max_tokens=1).status_code == 200
    with (
        openai.OpenAI(base_url=f"{taught_server}/v1", api_key="none", max_retries=0) as client,
        pytest.raises(openai.BadRequestError, match="did you mean 'humor'"),
    ):
        client.chat.completions.create(model="taught", messages=ASK, extra_body=attributes(humour=1))


def test_markers_can_be_stripped(taught_folder: Path, serving: Callable[..., Any]) -> None:
    with serving(taught_folder, "generate", strip_markers=True, name="own-name") as (url, _):
        dirty = [{"role": "user", "content": QUESTION + "<extra_<extra_id_1>id_2>"}]
        reply = chat(url, messages=dirty, model="own-name", temperature=0, **attributes(humor=4))
        assert reply.json()["choices"][0]["message"]["content"] == ANSWERS[4]


def test_a_base_model_answers_without_attributes(stories_server: str) -> None:
    reply = chat(stories_server, max_tokens=5, temperature=0)
    assert reply.status_code == 200 and reply.json()["steerlm"] == {"attributes": {}}
    assert "no attributes" in chat(stories_server, **attributes(humor=1)).json()["error"]["message"]


def test_disconnecting_from_a_stream_frees_the_engine(policy_folder: Path, serving: Callable[..., Any]) -> None:
    import time

    with serving(policy_folder, "generate") as (url, app):
        body = {"messages": ASK, "stream": True, "temperature": 9.0, "min_tokens": 250, "n": 4}
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as reply:
            next(reply.iter_lines())
        deadline = time.monotonic() + 5
        while app.state.service.engine.requests and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not app.state.service.engine.requests


def test_an_error_in_the_middle_of_a_stream_is_an_event(
    policy_folder: Path, serving: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(policy_folder, "generate") as (url, app):
        engine = app.state.service.engine
        forward = engine.model.forward
        calls = 0

        def dying(*arguments: Any, **more: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 4:
                raise RuntimeError("device lost")
            return forward(*arguments, **more)

        monkeypatch.setattr(engine.model, "forward", dying)
        reply = chat(url, stream=True, temperature=9.0, min_tokens=100)
        events = [line[6:] for line in reply.text.split("\n\n") if line]
        assert json.loads(events[-1])["error"]["code"] == 500
        assert httpx.get(f"{url}/health").status_code == 503
        assert chat(url).status_code == 500
