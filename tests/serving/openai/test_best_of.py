# SPDX-License-Identifier: Apache-2.0
"""Best of n: candidates are scored by a real reward server and returned by rank, with their scores."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.serving.conftest import QUESTION, running

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
CHAT: dict[str, Any] = {"messages": MESSAGES, "temperature": 1.2, "max_tokens": 6, "seed": 3}


@pytest.fixture(scope="module")
def server(policy_folder: Path, reward_server: str) -> Iterator[str]:
    with running(policy_folder, "generate", reward_server={"url": reward_server}, max_in_flight=16) as (url, _):
        yield url


def ask(server: str, **fields: Any) -> dict[str, Any]:
    reply = httpx.post(f"{server}/v1/chat/completions", json=CHAT | fields, timeout=60)
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


def text(choice: dict[str, Any]) -> str:
    return str(choice["message"]["content"])


def scored(reward_server: str, answer: str) -> dict[str, float]:
    body = {"messages": [*MESSAGES, {"role": "assistant", "content": answer}]}
    reply = httpx.post(f"{reward_server}/v1/score", json=body).json()
    return {
        name: value for name, value in zip(reply["attributes"], reply["scores"][0], strict=True) if name != "warmth"
    }


@pytest.mark.parametrize(
    ("rank_by", "weights"),
    [
        ("humor", {"humor": 1.0}),
        ({"quality": 1, "toxicity": -0.5}, {"quality": 1.0, "toxicity": -0.5}),
        ({"humor": -1}, {"humor": -1.0}),
    ],
    ids=["attribute", "weights", "negative"],
)
def test_the_best_candidates_come_first(
    rank_by: Any, weights: dict[str, float], server: str, reward_server: str
) -> None:
    plain = [text(choice) for choice in ask(server, n=5)["choices"]]
    values = {one: sum(w * scored(reward_server, one)[name] for name, w in weights.items()) for one in plain}
    wanted = sorted(plain, key=lambda one: -values[one])
    reply = ask(server, n=2, best_of=5, rank_by=rank_by)
    assert [text(choice) for choice in reply["choices"]] == wanted[:2]
    assert [choice["index"] for choice in reply["choices"]] == [0, 1]
    candidates = reply["steerlm"]["candidates"]
    assert [one["index"] for one in candidates] == [0, 1, None, None, None]
    assert candidates[0]["scores"] == pytest.approx(scored(reward_server, wanted[0]), abs=1e-4)
    found = [one["value"] for one in candidates]
    assert found == sorted(found, reverse=True)
    assert found == pytest.approx([values[one] for one in wanted], abs=1e-4)
    assert reply["usage"]["completion_tokens"] > 2 * 6, "all candidates were generated"


def test_the_openai_client_gets_one_answer_of_many(server: str) -> None:
    with openai.OpenAI(base_url=f"{server}/v1", api_key="none") as client:
        reply = client.chat.completions.create(
            model="policy",
            messages=[{"role": "user", "content": QUESTION}],
            max_tokens=4,
            extra_body={"best_of": 4, "rank_by": "quality"},
        )
    assert len(reply.choices) == 1
    assert len(reply.steerlm["candidates"]) == 4  # type: ignore[attr-defined]


REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "unknown": ({"best_of": 2, "rank_by": "humour"}, 400, "did you mean 'humor'"),
    "untrained": ({"best_of": 2, "rank_by": "warmth"}, 400, "rates no 'warmth'"),
    "weight": ({"best_of": 2, "rank_by": {"humor": "much"}}, 400, "rank_by.humor must be a number"),
    "huge": ({"best_of": 2, "rank_by": {"humor": 10**400}}, 400, "rank_by.humor must be a number"),
    "form": ({"best_of": 2, "rank_by": ["humor"]}, 400, "rank_by must be"),
    "empty": ({"best_of": 2, "rank_by": {}}, 400, "rank_by must be"),
    "no rank": ({"best_of": 2}, 400, "best_of needs rank_by"),
    "fewer": ({"n": 3, "best_of": 2, "rank_by": "humor"}, 400, "fewer than the 3"),
    "stream": ({"best_of": 2, "rank_by": "humor", "stream": True}, 400, "cannot be streamed"),
    "many": ({"best_of": 17, "rank_by": "humor"}, 400, "at most 16"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str, server: str) -> None:
    fields, status, message = REFUSED[name]
    reply = httpx.post(f"{server}/v1/chat/completions", json=CHAT | fields)
    assert reply.status_code == status
    assert message in reply.json()["error"]["message"]


def test_without_a_reward_server_only_ranking_is_refused(policy_server: str) -> None:
    assert ask(policy_server, best_of=1)["choices"]
    reply = httpx.post(f"{policy_server}/v1/chat/completions", json={**CHAT, "best_of": 2, "rank_by": "humor"})
    assert reply.status_code == 400
    assert "--reward-url" in reply.json()["error"]["message"]


def test_a_reward_server_may_come_later_and_must_be_one(
    policy_folder: Path, policy_server: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Clients are told of the reward server, the log of its address."""
    body = {**CHAT, "best_of": 2, "rank_by": "humor"}
    for url, status, message in (
        ("http://127.0.0.1:9", 503, "the reward server does not answer"),
        (policy_server, 502, "the reward server is not one of SteerLM"),
    ):
        with running(policy_folder, "generate", reward_server={"url": url}) as (server, _):
            assert httpx.get(f"{server}/ready").status_code == 200
            assert ask(server)["choices"]
            reply = httpx.post(f"{server}/v1/chat/completions", json=body)
            assert (reply.status_code, "retry-after" in reply.headers) == (status, status == 503)
            assert reply.json()["error"]["message"] == message
            assert any(f"the reward server {url} {message.split(maxsplit=3)[3]}" in line for line in caplog.messages)
