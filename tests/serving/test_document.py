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


@pytest.mark.parametrize("code", PYTHON, ids=["triton", "chat", "JSON", "completions", "answer"])
def test_python_blocks(code: str, policy_server: str, reward_server: str, capsys: pytest.CaptureFixture[str]) -> None:
    for port, url in (("1427", policy_server), ("1424", reward_server)):
        code = code.replace(port, url.rsplit(":", 1)[1])
    names: dict[str, Any] = {}
    exec(compile(code, str(DOCUMENT), "exec"), names)
    assert capsys.readouterr().out.strip()
    if "client" in names:
        names["client"].close()


def curls() -> list[list[str]]:
    """The words of each curl command of the document."""
    text = "\n".join(block.text for block in blocks(DOCUMENT) if block.language == "sh" and "curl " in block.text)
    return [shlex.split(f"curl {one}") for one in text.split("curl ")[1:]]


def test_curl_requests(reward_server: str) -> None:
    replies = []
    for words in curls():
        path = words[words.index("-s") + 1].removeprefix("localhost:1424")
        headers = dict([words[words.index("-H") + 1].split(": ")])
        reply = httpx.post(reward_server + path, content=words[words.index("-d") + 1], headers=headers)
        assert reply.status_code == 200, reply.text
        replies.append(reply.json())
    shown = next(json.loads(b.text) for b in blocks(DOCUMENT) if b.language == "json")
    whole, pair, messages, classified = replies
    assert set(shown) == set(whole) and shown["turns"] == whole["turns"] == messages["turns"]
    assert pair["scores"][0] == pytest.approx(whole["scores"][0], abs=1e-5)
    assert messages["scores"][0] == pytest.approx(whole["scores"][0], abs=1e-5)
    assert classified["data"][0]["probs"] == pytest.approx(whole["scores"][0], abs=1e-5)


@pytest.mark.parametrize("role", ["reward", "generate"])
def test_documented_options_exist(role: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert call(["serve", role, "--help"]) == 0
    help_text = capfd.readouterr().out
    shared = {
        "--max-body-mib",
        "--max-total-mib",
        "--max-in-flight",
        "--drain-seconds",
        "--strip-markers",
        "--host",
        "--name",
    }
    shared |= {"--max-connections", "--receive-seconds", "--cors-origin"}
    own = (
        {"--wait-ms"} if role == "reward" else {"--max-tokens", "--upstream-errors", "--max-requests", "--cache-tokens"}
    )
    text = DOCUMENT.read_text(encoding="utf-8")
    for option in shared | own:
        assert option in help_text and option in text
