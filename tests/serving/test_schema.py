# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI documents, tested by schemathesis: good and bad requests to every route, no server error."""

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

EXAMPLES = settings(
    max_examples=15, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


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


def test_schemathesis_finds_no_server_error(server: str) -> None:
    attempts = set()
    for result in schemathesis.openapi.from_url(f"{server}/openapi.json").get_all_operations():
        assert isinstance(result, Ok)
        operation = result.ok()
        modes = [GenerationMode.POSITIVE] + [GenerationMode.NEGATIVE] * (operation.method.upper() != "GET")
        for mode in modes:

            @EXAMPLES
            @given(case=operation.as_strategy(generation_mode=mode))
            def attempt(case: Any) -> None:
                reply = case.call_and_validate(checks=[not_a_server_error], timeout=60)
                attempts.add((case.path, reply.status_code < 400))

            attempt()
    paths = set(httpx.get(f"{server}/openapi.json").json()["paths"])
    assert {path for path, _ in attempts} == paths
    assert {ok for _, ok in attempts} == {True, False}
    assert httpx.get(f"{server}/health").status_code == 200
