# SPDX-License-Identifier: Apache-2.0
"""The scoring routes against a real server, called by several clients at once."""

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from steerlm.attributes import AttributeSchema
from steerlm.errors import ModelError
from steerlm.inference.scorer import HttpScorer, TransformersScorer
from steerlm.models.folder import read_info
from steerlm.prompt import render_readout
from steerlm.records import Conversation
from steerlm.serving.scoring import check_scores

TURNS: list[dict[str, Any]] = [
    {"from": "User", "value": "What is a good pet?", "label": None},
    {"from": "Assistant", "value": "A dog."},
    {"from": "User", "value": "And for a child?", "label": None},
    {"from": "Assistant", "value": "A cat, perhaps."},
]
RECORD: dict[str, Any] = {"conversations": TURNS, "system": "", "mask": "User"}


def texts(count: int) -> list[str]:
    return [f"<extra_id_1>User\n{'dog cat ' * (i % 7)}{i}\n<extra_id_2>" for i in range(count)]


def post(server: str, body: Any) -> tuple[int, Any]:
    reply = httpx.post(f"{server}/v1/score", json=body, timeout=60)
    return reply.status_code, reply.json()


def test_texts(reward_server: str, reward_folder: Path) -> None:
    status, body = post(reward_server, {"texts": texts(5)})
    schema = read_info(reward_folder).attributes
    assert status == 200 and schema is not None
    assert body["model"] == "reward"
    assert body["attributes"] == list(schema.names)
    expected = TransformersScorer(reward_folder).score(texts(5))
    np.testing.assert_allclose(np.array(body["scores"]), expected, atol=1e-5)
    assert body["labels"] == [schema.round(list(row)) for row in expected]
    assert list(body["labels"][0]) == ["quality", "toxicity", "humor"]  # warmth was never trained


@pytest.mark.parametrize("route", ["v1/score", "classify"])
def test_an_answer_to_nobody_is_refused(route: str, reward_server: str) -> None:
    for first in ([], [{"role": "system", "content": "Be kind."}]):
        messages = [*first, {"role": "assistant", "content": "A dog."}]
        reply = httpx.post(f"{reward_server}/{route}", json={"messages": messages})
        assert reply.status_code == 400 and "messages has no user message" in reply.json()["error"]["message"]


def test_conversations_score_every_turn_that_is_not_masked(reward_server: str, reward_folder: Path) -> None:
    status, body = post(reward_server, {"conversations": [RECORD, {**RECORD, "conversations": TURNS[:2]}]})
    assert status == 200
    assert body["turns"] == [
        {"conversation": 0, "turn": 1},
        {"conversation": 0, "turn": 3},
        {"conversation": 1, "turn": 1},
    ]
    record = Conversation.model_validate_json(json.dumps(RECORD))
    expected = TransformersScorer(reward_folder).score([render_readout(record, 1), render_readout(record, 3)])
    np.testing.assert_allclose(np.array(body["scores"])[:2], expected, atol=1e-5)
    np.testing.assert_allclose(body["scores"][2], body["scores"][0], atol=1e-5)


def test_the_system_prompt_of_a_record_counts_only_with_use_system(reward_server: str) -> None:
    other = {**RECORD, "system": "You are a pirate."}
    plain, same, own = (
        np.array(post(reward_server, body)[1]["scores"])
        for body in (
            {"conversations": [RECORD]},
            {"conversations": [other]},
            {"conversations": [other], "use_system": True},
        )
    )
    np.testing.assert_allclose(same, plain, atol=1e-5)
    assert np.abs(own - plain).max() > 0.01


def test_concurrent_clients_share_batches_and_get_their_own_scores(
    reward_folder: Path, serving: Callable[..., Any]
) -> None:
    expected = TransformersScorer(reward_folder).score(texts(64))
    with serving(reward_folder, "reward") as (url, app), ThreadPoolExecutor(32) as pool:
        before = app.state.service.engine.batches
        got = list(pool.map(lambda t: post(url, {"texts": [t]})[1]["scores"][0], texts(64)))
        batches = app.state.service.engine.batches - before
    np.testing.assert_allclose(np.array(got), expected, atol=1e-5)
    assert batches < 64


@pytest.mark.parametrize("route", ["/v1/score", "/v2/models/reward_model/infer"])
def test_texts_of_a_disconnected_client_are_not_scored(
    route: str, reward_folder: Path, serving: Callable[..., Any]
) -> None:
    tensor = {"name": "sentences", "datatype": "BYTES", "shape": [1, 1], "data": texts(1)}
    body = {"texts": texts(1)} if route == "/v1/score" else {"inputs": [tensor]}
    with serving(reward_folder, "reward") as (url, app), ThreadPoolExecutor(1) as pool:
        batcher = app.state.service.engine
        score, busy, go = batcher._scorer.score_tokens, threading.Event(), threading.Event()

        def slow(rows: list[list[int]]) -> Any:
            busy.set()
            assert go.wait(30)
            return score(rows)

        batcher._scorer.score_tokens = slow
        first = pool.submit(post, url, {"texts": texts(3)})
        assert busy.wait(30)
        before = batcher.batches
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(url + route, json=body, timeout=httpx.Timeout(30, read=0.3))
        deadline = time.monotonic() + 10
        while app.state.in_flight > 1:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        go.set()
        assert first.result()[0] == 200
        assert post(url, {"texts": texts(1)})[0] == 200
        assert batcher.batches == before + 1


def test_bad_requests_are_refused_by_name(reward_server: str) -> None:
    good = texts(1)[0]
    cases: list[tuple[Any, int, str]] = [
        ({"texts": [good, "no mark"]}, 400, r"texts[1] must end with the read-out mark <extra_id_2>"),
        ({}, 400, "give one of texts, conversations"),
        ({"texts": [good], "conversations": [RECORD]}, 400, "give one of texts, conversations"),
        ({"texts": good}, 400, "texts"),
        ({"text": [good]}, 400, "text"),
        ({"texts": [good, "x " * 500 + "<extra_id_2>"]}, 413, "texts[1] has 10"),
        ({"texts": [good] * 5000}, 413, "5000 texts at once"),
        (
            {"conversations": [RECORD, {**RECORD, "conversations": [TURNS[0], {**TURNS[1], "value": "dog " * 400}]}]},
            413,
            "window",
        ),
        (
            {"conversations": [{**RECORD, "conversations": [TURNS[0], {**TURNS[1], "value": "<extra_id_2>"}]}]},
            400,
            "<extra_id_2>",
        ),
        (
            {"conversations": [{**RECORD, "conversations": [TURNS[0], {**TURNS[1], "value": "<extra_id_1>"}]}]},
            400,
            "<extra_id_1>",
        ),
        ({"conversations": [{"conversations": []}]}, 400, "conversations[0].conversations"),
    ]
    for body, status, message in cases:
        got, reply = post(reward_server, body)
        assert (got, reply["error"]["code"]) == (status, status), body
        assert message in reply["error"]["message"]
    assert httpx.post(f"{reward_server}/v1/score", content=b"{").status_code == 415
    kind = {"content-type": "application/json"}
    assert httpx.post(f"{reward_server}/v1/score", content=b"{", headers=kind).status_code == 400
    assert post(reward_server, {"texts": []})[1]["scores"] == []


def test_model_route_and_the_http_scorer(reward_server: str, reward_folder: Path) -> None:
    body = httpx.get(f"{reward_server}/v1/model").json()
    assert (body["id"], body["kind"], body["window"]) == ("reward", "reward", 400)
    assert AttributeSchema.model_validate(body["attributes"]) == read_info(reward_folder).attributes
    scorer = HttpScorer("127.0.0.1", int(reward_server.rsplit(":", 1)[1]))
    expected = TransformersScorer(reward_folder).score(texts(40))
    np.testing.assert_allclose(scorer.score(texts(40)), expected, atol=1e-5)


def test_softmax_scores_are_refused() -> None:
    schema = AttributeSchema(names=("a", "b"))
    with pytest.raises(ModelError, match="softmax"):
        check_scores(np.array([[0.4, 0.6], [0.9, 0.1]], dtype=np.float32), schema)
    check_scores(np.array([[0.4, 0.6], [1.9, 0.1]], dtype=np.float32), schema)
    with pytest.raises(ModelError, match="not finite"):
        check_scores(np.array([[np.nan, 0.6]], dtype=np.float32), schema)
    with pytest.raises(ModelError, match="shape"):
        check_scores(np.array([[0.3]], dtype=np.float32), schema)


def test_keep_end_scores_the_end_of_a_text_longer_than_the_window(reward_server: str, reward_folder: Path) -> None:
    scorer = TransformersScorer(reward_folder)
    long = [f"<extra_id_1>User\n{'dog cat ' * 400}{i}\n<extra_id_2>" for i in range(2)]
    assert post(reward_server, {"texts": long})[0] == 413
    for body in ({"texts": long}, {"texts": long, "alone": True}):
        status, reply = post(reward_server, {**body, "over_long": "keep_end"})
        assert status == 200
        np.testing.assert_allclose(np.array(reply["scores"]), scorer.score(long, "keep_end"), atol=1e-5)
    record = {**RECORD, "conversations": [TURNS[0], {"from": "Assistant", "value": "dog cat " * 400}]}
    assert post(reward_server, {"conversations": [record]})[0] == 413
    assert post(reward_server, {"conversations": [record], "over_long": "keep_end"})[0] == 200
    assert post(reward_server, {"texts": long, "over_long": "skip"})[0] == 400


def test_messages_and_pairs_are_scored_as_the_same_conversation(reward_server: str, reward_folder: Path) -> None:
    roles = {"User": "user", "Assistant": "assistant"}
    messages = [{"role": roles[turn["from"]], "content": turn["value"]} for turn in TURNS]
    record = Conversation.model_validate_json(json.dumps(RECORD))
    expected = TransformersScorer(reward_folder).score([render_readout(record, 1), render_readout(record, 3)])
    status, reply = post(reward_server, {"messages": messages})
    assert status == 200, reply
    np.testing.assert_allclose(reply["scores"], expected, atol=1e-5)
    assert reply["turns"] == [{"conversation": 0, "turn": 1}, {"conversation": 0, "turn": 3}]
    status, reply = post(reward_server, {"prompt": TURNS[0]["value"], "response": TURNS[1]["value"]})
    np.testing.assert_allclose(reply["scores"], expected[:1], atol=1e-5)
    assert reply["turns"] is None and len(reply["labels"]) == 1
    pairs = {"prompt": ["Hi", TURNS[0]["value"]], "response": ["Hello", TURNS[1]["value"]]}
    np.testing.assert_allclose(post(reward_server, pairs)[1]["scores"][1], expected[0], atol=1e-5)
    system = {"role": "system", "content": "You are a pirate."}
    status, reply = post(reward_server, {"messages": [system, *messages]})
    own = record.model_copy(update={"system": "You are a pirate."})
    pirate = TransformersScorer(reward_folder).score([render_readout(own, t, use_system=True) for t in (1, 3)])
    np.testing.assert_allclose(reply["scores"], pirate, atol=1e-5)
    assert [turn["turn"] for turn in reply["turns"]] == [2, 4]


def test_bad_messages_and_pairs_are_refused_by_name(reward_server: str) -> None:
    user, answer = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "a"}
    for body, status, message in (
        ({"messages": [user]}, 400, "no assistant message"),
        ({"messages": []}, 400, "no message to score"),
        ({"messages": [user, {**answer, "content": None}]}, 400, "messages[1].content is null"),
        ({"messages": [user, {**answer, "content": "<extra_id_1>"}]}, 400, "messages[1].content contains the marker"),
        ({"messages": [user, {**answer, "content": "dog " * 400}]}, 413, "messages[1] has"),
        ({"prompt": "Hi"}, 400, "response is missing"),
        ({"prompt": ["Hi"], "response": ["a", "b"]}, 400, "1 prompts, 2 responses"),
        ({"prompt": ["Hi"], "response": "a"}, 400, "response must be a text, or both"),
        ({"prompt": "Hi", "response": "<extra_id_2>"}, 400, "response contains the marker"),
        ({"prompt": "Hi", "response": "dog " * 400}, 413, "response has"),
        ({"prompt": "Hi", "response": "a", "texts": []}, 400, "give one of texts"),
        ({"prompt": "Hi", "response": "a", "humor": 4}, 400, "unknown field 'humor'"),
        ({"prompt": "Hi", "response": "a", "model": "other"}, 404, "no model 'other' here"),
    ):
        got, reply = post(reward_server, body)
        assert got == status and message in reply["error"]["message"], (body, reply)
