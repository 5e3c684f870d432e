# SPDX-License-Identifier: Apache-2.0
"""`response_format` over HTTP: JSON mode and schemas, whole and streamed, beside other requests."""

import concurrent.futures
import json
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import openai
import pytest

from steerlm.models.folder import load_tokenizer

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "pet": {"enum": ["cat", "dog"]},
        "age": {"type": "integer", "minimum": 0, "maximum": 30},
        "wild": {"type": "boolean"},
    },
    "required": ["pet", "age", "wild"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "pet", "schema": SCHEMA, "strict": True}}
VALID = jsonschema_rs.validator_for(SCHEMA)
MESSAGES = [{"role": "user", "content": "What is a good pet?"}]


def ask(server: str, **body: Any) -> Any:
    asked = {"messages": MESSAGES, "max_tokens": 250, "seed": 3} | body
    reply = httpx.post(f"{server}/v1/chat/completions", json=asked, timeout=120)
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"]


def test_answers_conform_beside_others_and_in_streams(policy_server: str) -> None:
    asked: dict[str, Any] = {"temperature": 1.0, "n": 3}
    plain, together = ask(policy_server, max_tokens=40), ask(policy_server, response_format=FORMAT, **asked)
    assert [choice["finish_reason"] for choice in together] == ["stop"] * 3
    texts = [choice["message"]["content"] for choice in together]
    assert all(VALID.is_valid(json.loads(text)) for text in texts) and len(set(texts)) == 3, texts
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        beside = [
            pool.submit(ask, policy_server, **more)
            for more in (asked | {"response_format": FORMAT}, {"max_tokens": 40}, {"response_format": FORMAT})
        ]
        first, second, third = (one.result() for one in beside)
    assert first == together and second == plain
    assert VALID.is_valid(json.loads(third[0]["message"]["content"]))
    with httpx.stream(
        "POST",
        f"{policy_server}/v1/chat/completions",
        json={"messages": MESSAGES, "max_tokens": 250, "seed": 3, "stream": True, "response_format": FORMAT} | asked,
        timeout=120,
    ) as stream:
        events = [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: {")]
    streamed = ["", "", ""]
    for choice in (choice for event in events for choice in event["choices"]):
        streamed[choice["index"]] += choice["delta"].get("content", "")
    assert streamed == texts


def test_a_tokenizer_of_pieces_and_bytes(stories_server: str) -> None:
    body = {"prompt": "Once upon a time", "max_tokens": 400, "temperature": 1.0, "seed": 5, "n": 2}
    reply = httpx.post(f"{stories_server}/v1/completions", json=body | {"response_format": FORMAT}, timeout=120).json()
    for choice in reply["choices"]:
        assert choice["finish_reason"] == "stop" and VALID.is_valid(json.loads(choice["text"])), choice


def test_json_mode(policy_server: str, policy_folder: Path) -> None:
    # The bias makes a model of random weights close what it opens.
    bias = dict.fromkeys(load_tokenizer(policy_folder).convert_tokens_to_ids(["}", '"', "]"]), 100)
    for choice in ask(policy_server, response_format={"type": "json_object"}, temperature=1.0, n=3, logit_bias=bias):
        assert choice["finish_reason"] == "stop"
        assert isinstance(json.loads(choice["message"]["content"]), dict)
    (cut,) = ask(policy_server, response_format={"type": "json_object"}, max_tokens=1)
    assert cut["finish_reason"] == "length" and cut["message"]["content"].startswith("{")
    free = [ask(policy_server, max_tokens=20, response_format=form) for form in ({"type": "text"}, None)]
    assert free[0] == free[1] == ask(policy_server, max_tokens=20)


def test_the_openai_client(policy_server: str) -> None:
    client = openai.OpenAI(base_url=f"{policy_server}/v1", api_key="none")
    reply = client.chat.completions.create(
        model="policy",
        messages=[{"role": "user", "content": "Hi"}],
        response_format={"type": "json_schema", "json_schema": {"name": "pet", "schema": SCHEMA}},
    )
    assert VALID.is_valid(json.loads(reply.choices[0].message.content or ""))


@pytest.mark.parametrize(
    ("given", "param", "message"),
    [
        ("json", "", 'must have the form {"type": "json_object"}, not "json"'),
        ({}, "", "must have the form"),
        ({"type": "json"}, ".type", 'is "json"'),
        ({"type": "json_object", "schema": {}}, ".schema", "unknown field"),
        ({"type": "json_schema"}, ".json_schema", "must have the form"),
        ({"type": "json_schema", "json_schema": {"name": "a"}}, ".json_schema.schema", "must be a JSON schema"),
        ({"type": "json_schema", "json_schema": {"schemas": {}}}, ".json_schema.schemas", "did you mean 'schema'?"),
        (
            {"type": "json_schema", "json_schema": {"schema": {"type": "sentence"}}},
            ".json_schema.schema",
            "Invalid type: sentence",
        ),
        (
            {"type": "json_schema", "json_schema": {"schema": {"not": {}}}},
            ".json_schema.schema",
            'Unimplemented keys: ["not"]',
        ),
    ],
)
def test_a_bad_format_is_a_400_that_says_what_is_wrong(
    given: Any, param: str, message: str, policy_server: str
) -> None:
    for route, body in (("chat/completions", {"messages": MESSAGES}), ("completions", {"prompt": "Hi"})):
        reply = httpx.post(f"{policy_server}/v1/{route}", json=body | {"response_format": given}, timeout=60)
        error = reply.json()["error"]
        assert (reply.status_code, error["param"]) == (400, f"response_format{param}"), reply.text
        assert message in error["message"]


def test_an_answer_without_a_next_token_fails_alone(policy_server: str) -> None:
    dead_end = {"type": "string", "pattern": "^<extra_id_[1]>$"}
    form = {"type": "json_schema", "json_schema": {"schema": dead_end}}
    body = {"messages": MESSAGES, "response_format": form}
    reply = httpx.post(f"{policy_server}/v1/chat/completions", json=body, timeout=60)
    assert reply.status_code == 500 and "the schema allows no further token" in reply.text
    assert ask(policy_server, max_tokens=3)
