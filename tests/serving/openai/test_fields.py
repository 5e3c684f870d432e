# SPDX-License-Identifier: Apache-2.0
"""Every field of OpenAI's requests works, is refused, or cannot change the answer; dials are never lost."""

import json
import typing
from pathlib import Path
from typing import Any

import httpx
import openai.types.chat as openai_chat
import pytest
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params

from steerlm.prompt import render_prompt
from steerlm.records import Turn
from steerlm.serving import messages as message_fields
from steerlm.serving.openai.chat import ChatRequest
from steerlm.serving.openai.completions import CompletionRequest
from steerlm.serving.openai.fields import IGNORED, WITHOUT_EFFECT
from tests.docs.tables import documented
from tests.serving.conftest import ANSWERS, QUESTION, SCHEMA

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "serving.md"
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 12}
RAW = {
    "prompt": render_prompt([Turn(value=QUESTION, speaker="User")], SCHEMA.format(SCHEMA.complete({"humor": 4}))),
    "temperature": 0,
    "max_tokens": 12,
}
ODD: dict[str, Any] = {
    "user": "u",
    "metadata": {"a": "b"},
    "store": True,
    "priority": 3,
    "prediction": {"type": "content"},
}
"""Values of fields that may have any; others get a text."""


def send(server: str, route: str, body: Any, **headers: str) -> tuple[int, Any]:
    reply = httpx.post(server + route, json=body, timeout=60, headers=headers)
    return reply.status_code, reply.json()


def answer(reply: Any) -> str:
    choice = reply["choices"][0]
    return str(choice["text"] if "text" in choice else choice["message"]["content"])


def refused(server: str, body: Any, route: str = "/v1/chat/completions") -> tuple[str, str | None]:
    status, reply = send(server, route, body)
    assert status == 400, (body, reply)
    return reply["error"]["message"], reply["error"]["param"]


def test_every_field_of_openai_s_client_is_decided() -> None:
    chat = set(chat_create_params.CompletionCreateParamsBase.__annotations__)
    completion = set(completion_create_params.CompletionCreateParamsBase.__annotations__)
    assert len(chat) > 30
    for fields, model in ((chat, ChatRequest), (completion, CompletionRequest)):
        assert fields <= {*model.model_fields, *IGNORED, *WITHOUT_EFFECT}
    for name in ("User", "Assistant", "System", "Developer"):
        fields = set(getattr(openai_chat, f"ChatCompletion{name}MessageParam").__annotations__)
        assert fields <= {*message_fields.ChatMessage.model_fields, *message_fields.WITHOUT_EFFECT}
    options = set(typing.get_type_hints(openai_chat.ChatCompletionStreamOptionsParam))
    assert options <= set(typing.get_type_hints(ChatRequest.model_fields["stream_options"].annotation.__args__[0]))  # type: ignore[union-attr]


@pytest.mark.parametrize(("route", "body"), [("/v1/chat/completions", CHAT), ("/v1/completions", RAW)])
def test_what_is_ignored_changes_nothing(route: str, body: dict[str, Any], taught_server: str) -> None:
    model = ChatRequest if "chat" in route else CompletionRequest
    everything = {name: ODD.get(name, "x") for name in IGNORED} | dict.fromkeys(WITHOUT_EFFECT)
    everything = {name: value for name, value in everything.items() if name not in model.model_fields}
    status, reply = send(taught_server, route, body | everything)
    assert status == 200, reply
    plain = answer(send(taught_server, route, body)[1])
    assert answer(reply) == plain
    for name in WITHOUT_EFFECT.keys() - model.model_fields.keys():
        for value in WITHOUT_EFFECT[name]:
            status, reply = send(taught_server, route, body | {name: value})
            assert (status, answer(reply)) == (200, plain), name
        assert refused(taught_server, body | {name: "something else"}, route)[1] == name


def test_the_tables_of_the_document() -> None:
    tables = documented(DOCUMENT.read_text(encoding="utf-8").replace("| field |", "| key |"))
    ignored = {name.strip("`"): why for name, why in tables["Fields without effect"]}
    assert ignored == IGNORED
    shown = {name.strip("`"): values for name, values in tables["Fields that are refused"]}
    assert shown == {name: " or ".join(f"`{json.dumps(v)}`" for v in values) for name, values in WITHOUT_EFFECT.items()}


def test_dials_work_wherever_their_meaning_is_plain(taught_server: str) -> None:
    for humor, expected in ANSWERS.items():
        for where in (
            {"chat_template_kwargs": {"attributes": {"humor": humor}}},
            {"chat_template_kwargs": {"humor": humor}},
            {"chat_template_kwargs": {"label": f"quality:4,humor:{humor}"}},
            {"chat_template_kwargs": {"label": {"humor": humor}, "enable_thinking": False}},
            {"attributes": {"humor": humor}},
            {"attributes": {"humor": humor}, "chat_template_kwargs": {"humor": humor, "quality": 4}},
        ):
            status, reply = send(taught_server, "/v1/chat/completions", CHAT | where)
            assert status == 200, reply
            assert reply["steerlm"]["attributes"]["humor"] == humor
            assert answer(reply) == expected


PLACE = 'chat_template_kwargs: {"attributes": {"humor": 4}}'


@pytest.mark.parametrize(
    ("where", "param", "message"),
    [
        ({"humor": 4}, "humor", PLACE),
        ({"humour": 4}, "humour", "did you mean 'humor'?"),
        ({"Humor": 4}, "Humor", PLACE),
        ({"atributes": {"humor": 4}}, "atributes", "did you mean 'attributes'?"),
        ({"label": "humor:4"}, "label", PLACE),
        ({"labels": {"humor": 4}}, "labels", PLACE),
        ({"warmth": 4}, "warmth", PLACE),
        ({"extra_body": {"humor": 4}}, "extra_body", "argument of the openai client"),
        ({"chat_template_kwargs": {"humour": 4}}, "chat_template_kwargs", "did you mean 'humor'?"),
        ({"chat_template_kwargs": {"warmth": 4}}, "chat_template_kwargs", "unknown key 'warmth'"),
        ({"chat_template_kwargs": {"enable_thinking": True}}, "chat_template_kwargs", "unknown key 'enable_thinking'"),
        ({"chat_template_kwargs": {"label": "humor"}}, "chat_template_kwargs.label", "not in the form name:number"),
        ({"chat_template_kwargs": {"label": 4}}, "chat_template_kwargs.label", "must be a text"),
        ({"chat_template_kwargs": {"attributes": [4]}}, "chat_template_kwargs.attributes", "must be an object"),
        ({"chat_template_kwargs": "humor:4"}, "chat_template_kwargs", "an object"),
        ({"attributes": "humor:4"}, "attributes", "must be an object"),
        ({"attributes": {"humor": 1}, "chat_template_kwargs": {"humor": 2}}, "chat_template_kwargs.humor", "differ"),
        ({"min_p": 0.1}, "min_p", "not supported"),
        ({"verbosity": "low"}, "verbosity", "not supported"),
        ({"temperatures": 0}, "temperatures", "did you mean 'temperature'?"),
        ({"something_new": 1}, "something_new", "unknown field 'something_new'"),
        ({"prompt": "Hi"}, "prompt", "/v1/completions"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens", "differ"),
        ({"stream_options": {"include_usages": True}}, "stream_options.include_usages", "unknown field"),
        ({"stop": 5}, "stop", "a string or a list of strings was expected, not 5"),
    ],
)
def test_dials_and_fields_elsewhere_are_refused_with_the_right_place(
    where: dict[str, Any], param: str, message: str, taught_server: str
) -> None:
    text, named = refused(taught_server, CHAT | where)
    assert message in text and named == param, (text, named)


def test_dials_beside_a_raw_prompt_are_refused(taught_server: str) -> None:
    for name in ("attributes", "humor", "label"):
        text, param = refused(taught_server, RAW | {name: {"humor": 4}}, "/v1/completions")
        assert "/v1/chat/completions" in text and "write the dials into it" in text and param == name
    assert "/v1/chat/completions" in refused(taught_server, RAW | {"messages": []}, "/v1/completions")[0]
    kwargs = {"chat_template_kwargs": {"attributes": {"humor": 4}}}
    assert "chat_template_kwargs" in refused(taught_server, RAW | kwargs, "/v1/completions")[0]
    for name, value in (("attributes", {"humor": 4}), ("humor", 4)):
        reply = httpx.put(f"{taught_server}/generate", json={"sentences": ["a"], name: value})
        assert reply.status_code == 400 and "write the dials into it" in reply.json()["error"]["message"]
    reply = httpx.put(f"{taught_server}/generate", json={"sentences": ["a"], "top_kk": 4})
    assert reply.json()["error"]["message"] == "unknown field 'top_kk'; did you mean 'top_k'?"


USER = {"role": "user", "content": "Hi"}
CALLING = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function"}]}


@pytest.mark.parametrize(
    ("messages", "param", "message"),
    [
        ([{"role": "user", "content": None}], "messages[0].content", "is null; a text"),
        ([{"role": "user"}], "messages[0].content", "is missing; a text"),
        ([{"role": "user", "content": 5}], "messages[0].content", "is 5; a text"),
        ([{"role": "user", "content": ["Hi"]}], "messages[0].content[0]", '{"type": "text", "text": "..."}, not "Hi"'),
        (
            [
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}],
                }
            ],
            "messages[0].content[1]",
            'is of type "image_url"; the model reads text only',
        ),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0]", "must have the form"),
        (
            [{"role": "user", "content": [{"type": "text", "text": "a", "humor": 4}]}],
            "messages[0].content[0].humor",
            "unknown field",
        ),
        ([USER, CALLING, USER], "messages[1].tool_calls", "not supported"),
        ([USER, {"role": "tool", "tool_call_id": "1", "content": "42"}], "messages[1].role", "this model has no tools"),
        ([USER, {"role": "Assistant", "content": "a"}, USER], "messages[1].role", "must be system, user or assistant"),
        ([{"content": "Hi"}], "messages[0].role", "is missing"),
        ([{**USER, "humor": 4}], "messages[0].humor", "label of an assistant's message"),
        ([USER, {"role": "assistant", "content": "a", "labels": "humor:4"}, USER], "messages[1].labels", "'label'"),
        ([USER, {"role": "assistant", "content": "a", "label": 4}, USER], "messages[1].label", "must be a text"),
        ([{**USER, "name": "Ann"}, {**USER, "name": "Bob"}], "messages[1].name", "another user is 'Ann'"),
        (["Hi"], "messages[0]", "was expected"),
        ("Hi", "messages", "a list was expected"),
    ],
)
def test_refusals_name_the_part_of_a_message_and_what_is_taken(
    messages: Any, param: str, message: str, taught_server: str
) -> None:
    text, named = refused(taught_server, {"messages": messages})
    assert named == param and message in text and text.startswith(param), (text, named)


def test_fields_of_messages_without_effect(taught_server: str) -> None:
    history: list[dict[str, Any]] = [
        {**USER, "content": QUESTION, "name": "Ann"},
        {"role": "assistant", "content": "A dog.", "tool_calls": [], "refusal": None, "audio": None, "annotations": []},
        {"role": "user", "content": [{"type": "text", "text": QUESTION, "cache_control": {"type": "ephemeral"}}]},
    ]
    plain = [{"role": one["role"], "content": one["content"]} for one in history[:2]] + [
        {"role": "user", "content": QUESTION}
    ]
    got, expected = (send(taught_server, "/v1/chat/completions", CHAT | {"messages": m}) for m in (history, plain))
    assert got[0] == expected[0] == 200 and answer(got[1]) == answer(expected[1])
    assert got[1]["usage"] == expected[1]["usage"]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([-1, 5], "prompt[0] is -1; token ids are integers from 0"),
        ([True], "prompt[0] is true"),
        (["a", 5], 'prompt[0] is "a"'),
        ([5, "a"], 'prompt[1] is "a"'),
        ([[5], [1.5]], "prompt[1][0] is 1.5"),
        (5, "prompt is 5; a text or a list of token ids was expected"),
        (None, "prompt is null"),
        ({"text": "a"}, "prompt is {"),
    ],
)
def test_one_message_for_all_forms_of_a_prompt(prompt: Any, message: str, taught_server: str) -> None:
    assert message in refused(taught_server, {"prompt": prompt}, "/v1/completions")[0]


def test_bodies_that_are_not_json(taught_server: str) -> None:
    url = f"{taught_server}/v1/chat/completions"
    kind = {"content-type": "application/json"}
    form = {"content-type": "application/x-www-form-urlencoded"}  # of curl -d without a header
    for content, headers, status, message in (
        (json.dumps(CHAT), {}, 415, "has no content type; send JSON, with the header content-type: application/json"),
        (json.dumps(CHAT), form, 415, "the content type 'application/x-www-form-urlencoded'; send JSON"),
        ("{", kind, 400, "the body is not JSON: "),
        ("", kind, 400, "the body is empty"),
        ("[1]", kind, 400, "the body: an object with keys was expected, not [1]"),
        ('"Hi"', kind, 400, "the body: "),
    ):
        reply = httpx.post(url, content=content, headers=headers)
        assert reply.status_code == status and message in reply.json()["error"]["message"], reply.text
