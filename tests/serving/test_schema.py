# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI documents, tested by schemathesis: good and bad requests to every route, no response but those named."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from tests.serving.operations.conftest import ALICE, bearer
from tests.serving.operations.conftest import keys as keys

EXAMPLES = settings(
    max_examples=15, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)

CHECKS = [not_a_server_error, status_code_conformance, response_schema_conformance]


@pytest.fixture(params=["generate", "reward", "generate with an upstream", "reward with an upstream"])
def server(
    request: pytest.FixtureRequest, policy_folder: Path, reward_folder: Path, serving: Callable[..., Any]
) -> Iterator[str]:
    kind, _, upstream = request.param.partition(" with ")
    folder = reward_folder if kind == "reward" else policy_folder
    options: dict[str, Any] = {} if kind == "reward" else {"max_tokens": 64}
    with contextlib.ExitStack() as stack:
        if upstream:
            url, _ = stack.enter_context(serving(folder, kind))
            options["upstream"] = {"url": url}
            if kind == "generate":
                url, _ = stack.enter_context(serving(reward_folder, "reward"))
                options["reward_server"] = {"url": url}
        url, _ = stack.enter_context(serving(folder, kind, **options))
        yield url


def test_schemathesis_finds_no_server_error_and_nothing_undocumented(server: str) -> None:
    attempts = set()
    for result in schemathesis.openapi.from_url(f"{server}/openapi.json").get_all_operations():
        assert isinstance(result, Ok)
        operation = result.ok()
        modes = [GenerationMode.POSITIVE] + [GenerationMode.NEGATIVE] * (operation.method.upper() != "GET")
        for mode in modes:

            @EXAMPLES
            @given(case=operation.as_strategy(generation_mode=mode))
            def attempt(case: Any) -> None:
                reply = case.call_and_validate(checks=CHECKS, timeout=60)
                attempts.add((case.path, reply.status_code < 400))

            attempt()
    paths = set(httpx.get(f"{server}/openapi.json").json()["paths"])
    assert {path for path, _ in attempts} == paths
    assert {ok for _, ok in attempts} == {True, False}
    assert httpx.get(f"{server}/health").status_code == 200


def statuses(url: str, method: str, path: str, headers: dict[str, str] | None = None) -> set[str]:
    found = httpx.get(f"{url}/openapi.json", headers=headers).json()["paths"][path][method]["responses"]
    return set(found) - {"200", "201", "500"}


WORK = {"400", "408", "413", "415", "429", "503"}


def test_each_route_has_the_errors_that_the_server_sends_there(
    policy_folder: Path, policy_server: str, reward_server: str, serving: Callable[..., Any], keys: Callable[..., Path]
) -> None:
    assert statuses(policy_server, "post", "/v1/studio/ratings") == WORK | {"404"}
    assert statuses(policy_server, "put", "/generate") == WORK
    assert statuses(policy_server, "get", "/v1/models/{model_id}") == {"404", "503"}
    assert statuses(policy_server, "get", "/metrics") == set()
    assert statuses(reward_server, "post", "/v2/models/{model}/infer") == WORK | {"404"}
    path = keys({"keys": {"alice": ALICE}})
    settings = {"api_keys": path, "reward_server": {"url": reward_server}, "request_seconds": 60.0}
    with serving(policy_folder, "generate", **settings) as (url, _):
        key = bearer(ALICE)
        assert statuses(url, "post", "/v1/chat/completions", key) == WORK | {"401", "404", "502", "504"}
        assert statuses(url, "get", "/v1/model", key) == {"401", "503"}
        assert statuses(url, "get", "/metrics", key) == {"401"}
        assert statuses(url, "get", "/health", key) == {"503"}
        document = httpx.get(f"{url}/openapi.json", headers=key).text
    assert "422" not in document and "HTTPValidationError" not in document
    for server, name in ((policy_server, "Error"), (reward_server, "KServeError")):
        document = httpx.get(f"{server}/openapi.json").text
        assert f'"#/components/schemas/{name}"' in document and "ValidationError" not in document
