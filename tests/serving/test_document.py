# SPDX-License-Identifier: Apache-2.0
"""The examples of docs/serving.md, run against real servers: its Python blocks and the request it sends with curl."""

import json
import shlex
from pathlib import Path
from typing import Any

import httpx
import pytest

from steerlm.cli.main import call
from tests.docs.shell import blocks

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "serving.md"
PYTHON = [block.text for block in blocks(DOCUMENT) if block.language == "python"]


@pytest.mark.parametrize("code", PYTHON, ids=["triton", "chat", "completions", "answer"])
def test_python_blocks(code: str, policy_server: str, reward_server: str, capsys: pytest.CaptureFixture[str]) -> None:
    for port, url in (("1427", policy_server), ("1424", reward_server)):
        code = code.replace(port, url.rsplit(":", 1)[1])
    names: dict[str, Any] = {}
    exec(compile(code, str(DOCUMENT), "exec"), names)
    assert capsys.readouterr().out.strip()
    if "client" in names:
        names["client"].close()


def test_curl_request(reward_server: str) -> None:
    (words,) = [shlex.split(b.text) for b in blocks(DOCUMENT) if b.language == "sh" and b.text.startswith("curl")]
    body = json.loads(words[words.index("-d") + 1])
    reply = httpx.post(f"{reward_server}/v1/score", json=body)
    assert reply.status_code == 200
    shown = next(json.loads(b.text) for b in blocks(DOCUMENT) if b.language == "json")
    assert set(shown) == set(reply.json()) and shown["turns"] == reply.json()["turns"]


@pytest.mark.parametrize("role", ["reward", "generate"])
def test_documented_options_exist(role: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert call(["serve", role, "--help"]) == 0
    help_text = capfd.readouterr().out
    shared = {"--max-body-mib", "--max-in-flight", "--drain-seconds", "--strip-markers", "--host", "--name"}
    own = (
        {"--wait-ms"} if role == "reward" else {"--max-tokens", "--upstream-errors", "--max-requests", "--cache-tokens"}
    )
    text = DOCUMENT.read_text(encoding="utf-8")
    for option in shared | own:
        assert option in help_text and option in text
