# SPDX-License-Identifier: Apache-2.0
"""`/metrics` as Prometheus reads it, of real servers under load."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from steerlm.attributes import AttributeSchema
from steerlm.serving.operations.metrics import ScoreHistogram
from tests.serving.operations.conftest import ALICE, bearer, samples, total

TURN = "<extra_id_1>User\nA dog\n<extra_id_2>"
TOKENS = 40


def chat(**more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": TOKENS, "min_tokens": TOKENS, **more}


def test_a_policy_under_load(policy_folder: Path, serving: Callable[..., Any]) -> None:
    async def load(url: str) -> list[tuple[float, float]]:
        seen = []
        async with httpx.AsyncClient(base_url=url, timeout=60) as http:
            asked = chat(chat_template_kwargs={"attributes": {"humor": 4, "quality": 0}})
            bodies = [chat(stream=True), asked, chat(n=2), chat(stream=True)]
            requests = [asyncio.create_task(http.post("/v1/chat/completions", json=body)) for body in bodies * 2]
            while not all(request.done() for request in requests):
                found = await asyncio.to_thread(samples, url)
                seen.append((total(found, "vllm:num_requests_running"), total(found, "vllm:num_requests_waiting")))
            assert all(request.result().status_code == 200 for request in requests)
        return seen

    with serving(policy_folder, "generate", engine={"max_requests": 2}) as (url, _):
        seen = asyncio.run(load(url))
        assert max(running for running, _ in seen) == 2
        assert max(waiting for _, waiting in seen) > 0
        httpx.post(f"{url}/v1/chat/completions", json=chat(model="nothing"))
        httpx.put(
            f"{url}/generate", json={"sentences": ["A dog"], "tokens_to_generate": 3, "min_tokens_to_generate": 3}
        )
        httpx.request("BREW", f"{url}/no/such/route")
        found = samples(url)
        both = {"model_name": "policy", "engine": "steerlm"}
        assert total(found, "vllm:num_requests_running", **both) == total(found, "vllm:num_requests_waiting") == 0
        assert total(found, "steerlm_answers_in_flight") == total(found, "steerlm_request_body_bytes") == 0
        assert total(found, "vllm:generation_tokens_total", **both) == TOKENS * 10 + 3
        assert total(found, "vllm:prompt_tokens_total", **both) > 8 * 30
        assert total(found, "vllm:request_success_total", finished_reason="length") == 11
        assert total(found, "vllm:time_to_first_token_seconds_count", **both) == 4, "of streams"
        assert total(found, "vllm:inter_token_latency_seconds_count", **both) == 4 * (TOKENS - 1)
        assert total(found, "vllm:e2e_request_latency_seconds_count", **both) == 9
        assert total(found, "vllm:request_time_per_output_token_seconds_count", **both) == 9
        assert (
            0
            < total(found, "vllm:time_to_first_token_seconds_sum")
            < total(found, "vllm:e2e_request_latency_seconds_sum")
        )
        assert total(found, "steerlm_attributes_asked_total", attribute="humor", value="4") == 2
        assert total(found, "steerlm_attributes_asked_total") == 4, "not the defaults"
        assert total(found, "steerlm_refused_requests_total", reason="not_found") == 2
        ok = {"route": "/v1/chat/completions", "method": "POST", "status": "200", "key": ""}
        assert total(found, "steerlm_http_requests_total", **ok) == 8
        assert total(found, "steerlm_http_requests_total", route="/generate", status="200") == 1
        assert total(found, "steerlm_http_requests_total", route="other", method="other", status="404") == 1
        assert total(found, "process_open_fds") > 0


def test_a_reward_model(reward_folder: Path, serving: Callable[..., Any]) -> None:
    with serving(reward_folder, "reward") as (url, _):
        scores = httpx.post(f"{url}/v1/score", json={"texts": [TURN] * 3}).json()["scores"]
        tensor = {"name": "sentences", "datatype": "BYTES", "shape": [2, 1], "data": [TURN, "long " * 900]}
        assert httpx.post(f"{url}/v2/models/reward_model/infer", json={"inputs": [tensor]}).status_code == 200
        assert httpx.post(f"{url}/classify", json={"input": TURN}).status_code == 200
        assert httpx.post(f"{url}/v1/score", json={"texts": ["long " * 900 + TURN]}).status_code == 413
        found = samples(url)
        assert total(found, "steerlm_scored_texts_total") == 5, "one of the six is too long"
        assert total(found, "steerlm_score_bucket", attribute="humor", le="+Inf") == 5
        bounds = [float(dict(labels)["le"]) for name, labels in found if name == "steerlm_score_bucket"]
        for bound in set(bounds):
            within = total(found, "steerlm_score_bucket", attribute="humor", le=f"{bound}".replace("inf", "+Inf"))
            assert within == (5 if scores[0][2] <= bound else 0)
        assert total(found, "steerlm_score_bucket", attribute="warmth") == 0, "never trained"
        assert total(found, "steerlm_scorer_queue_texts") == 0
        assert total(found, "vllm:e2e_request_latency_seconds_count") == 3
        assert total(found, "steerlm_refused_requests_total", reason="too_large") == 1
        assert total(found, "steerlm_http_requests_total", route="/v2/models/{model}/infer", status="200") == 1


def test_a_request_refused_before_its_route_is_counted_there(
    policy_folder: Path, serving: Callable[..., Any], keys: Callable[..., Path]
) -> None:
    """Labels are templates of routes, whatever paths strangers try."""
    path = keys({"keys": {"alice": ALICE}})
    with serving(policy_folder, "generate", api_keys=path, open_metrics=True, max_body_bytes=100) as (url, app):
        strange = [f"/v1/models/{name}" for name in "abc"] + [f"/{name}" for name in "abc"]
        for method, one in [("GET", one) for one in (*strange, "/openapi.json")] + [("DELETE", "/generate")]:
            assert httpx.request(method, url + one).status_code == 401
        assert httpx.post(f"{url}/v1/completions", content=b"x" * 101, headers=bearer(ALICE)).status_code == 413
        app.state.draining = True
        assert httpx.get(f"{url}/v1/studio", headers=bearer(ALICE)).status_code == 503
        app.state.draining = False
        found = samples(url)
    for status, route, count in (
        ("401", "/v1/models/{model_id:path}", 3),
        ("401", "/openapi.json", 1),
        ("401", "/generate", 1),
        ("401", "other", 3),
        ("413", "/v1/completions", 1),
        ("503", "/v1/studio", 1),
    ):
        assert total(found, "steerlm_http_requests_total", status=status, route=route) == count, route
    assert total(found, "steerlm_http_requests_total") == 10


def test_apps_of_one_process_count_apart(policy_server: str, reward_server: str) -> None:
    policy, reward = samples(policy_server), samples(reward_server)
    assert total(policy, "vllm:num_requests_running", model_name="policy") == 0
    assert not any(("model_name", "reward") in labels for _, labels in policy)
    assert not any(("model_name", "policy") in labels for _, labels in reward)


def test_openmetrics_is_given_to_those_who_ask(policy_server: str) -> None:
    asked = httpx.get(f"{policy_server}/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert asked.headers["content-type"].startswith("application/openmetrics-text")
    assert asked.text.endswith("# EOF\n")
    assert httpx.get(f"{policy_server}/metrics").headers["content-type"].startswith("text/plain")


def test_scores_are_counted_in_the_bucket_up_to_their_bound() -> None:
    histogram = ScoreHistogram(AttributeSchema(names=("a", "b"), low=0, high=2))
    histogram.add(np.array([[0.0, 0.1], [2.0, 99.0]], dtype=np.float32))
    buckets = {
        (one.labels["attribute"], one.labels["le"]): one.value
        for one in histogram.family("m").samples
        if one.name.endswith("_bucket")
    }
    assert [buckets["a", bound] for bound in ("-0.5", "0.0", "1.5", "2.0", "+Inf")] == [0, 1, 1, 2, 2]
    assert [buckets["b", bound] for bound in ("0.0", "0.5", "3.0", "+Inf")] == [0, 1, 1, 2]
