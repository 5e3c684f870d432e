# SPDX-License-Identifier: Apache-2.0
"""`steerlm chat` and the addresses that `steerlm ask` takes, from the command line against real servers."""

import os
import pty
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from steerlm.cli.main import call
from tests.conftest import ROOT
from tests.serving.conftest import ANSWERS, QUESTION
from tests.serving.conftest import policy_folder as policy_folder
from tests.serving.conftest import reward_folder as reward_folder
from tests.serving.conftest import reward_server as reward_server
from tests.serving.conftest import serving as serving
from tests.serving.conftest import taught_folder as taught_folder
from tests.serving.conftest import taught_server as taught_server
from tests.serving.conftest import tokenizer_folder as tokenizer_folder


def steerlm(*words: str, lines: str) -> "subprocess.CompletedProcess[str]":
    """A command as a process of its own, which reads `lines` from a pipe."""
    command = [sys.executable, "-m", "steerlm.cli", *words]
    return subprocess.run(command, input=lines, capture_output=True, text=True, timeout=200, cwd=ROOT, check=False)


def test_dials_are_turned_in_a_piped_chat(taught_server: str) -> None:
    lines = f"""{QUESTION}
/reset
/set humor 4
{QUESTION}
/show
/reset
/set humor=0,quality:4
/show
{QUESTION}
/unset humor
/show
/unset
/show
/quit
never asked
"""
    done = steerlm("chat", "--url", taught_server, "--humor", "0", lines=lines)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        ANSWERS[0],
        ANSWERS[4],
        "quality 4 (default), toxicity 0 (default), humor 4; 1 answer so far",
        "quality 4, toxicity 0 (default), humor 0; 0 answers so far",
        ANSWERS[0],
        "quality 4, toxicity 0 (default), humor 1 (default); 1 answer so far",
        "quality 4 (default), toxicity 0 (default), humor 1 (default); 1 answer so far",
    ]


def test_earlier_answers_keep_the_dials_they_were_asked_with(
    taught_folder: Path, serving: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from steerlm.serving import chat_prompt
    from steerlm.serving.openai import chat

    asked: list[Any] = []
    build = chat_prompt.build_prompt

    def spy(messages: Any, *arguments: Any, **more: Any) -> Any:
        asked.append(build(messages, *arguments, **more))
        return asked[-1]

    monkeypatch.setattr(chat, "build_prompt", spy)
    with serving(taught_folder, "generate") as (url, _):
        lines = f"{QUESTION}\n/set humor 4\n//slash\n"
        done = steerlm("chat", "--url", url, "--humor=0", "--system", "Be kind.", "--max-tokens", "9", lines=lines)
    assert done.returncode == 0, done.stderr
    text = asked[1].text
    assert text.startswith("<extra_id_0>System\nBe kind.\n")
    assert f"<extra_id_2>quality:4,toxicity:0,humor:0\n{done.stdout.splitlines()[0]}" in text
    assert text.endswith("<extra_id_1>User\n/slash\n<extra_id_1>Assistant\n<extra_id_2>quality:4,toxicity:0,humor:4\n")


def test_a_local_model_is_loaded_once_and_answers(taught_folder: Path) -> None:
    lines = f"/set humor 0\n{QUESTION}\n/reset\n/set humor 4\n{QUESTION}\n"
    done = steerlm("chat", "--model", str(taught_folder), lines=lines)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [ANSWERS[0], ANSWERS[4]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/set humour 4", "did you mean 'humor'?"),
        ("/set humor", "unknown command '/set humor'"),
        ("/set humor 9", "must be in 0..4"),
        ("/unset humor", "humor is not set"),
        ("/stop", "/quit"),
        ("a <extra_id_1> b", "contains the marker <extra_id_1>"),
        ("pet " * 600, "window is 400"),
    ],
)
def test_the_first_error_ends_a_piped_chat(
    line: str, message: str, taught_server: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", iter_stdin([line, QUESTION]))
    assert call(["chat", "--url", taught_server]) == 2
    out, err = capfd.readouterr()
    assert message in err and out == ""


def iter_stdin(lines: list[str]) -> Any:
    import io

    return io.StringIO("\n".join(lines))


def test_a_terminal_goes_on_after_an_error(taught_server: str) -> None:
    parent, child = pty.openpty()
    command = [sys.executable, "-m", "steerlm.cli", "chat", "--url", taught_server]
    with subprocess.Popen(command, stdin=child, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT) as process:
        os.close(child)
        os.write(parent, f"/set humour 4\n/set humor 4\n{QUESTION}\n/quit\n".encode())
        assert process.stdout is not None
        said = process.stdout.read().decode()
    os.close(parent)
    assert process.returncode == 0
    assert "did you mean 'humor'?" in said and ANSWERS[4] in said


@pytest.mark.parametrize("form", ["{}", "{}/", "{}/v1", "{}/v1/", " {} "])
@pytest.mark.parametrize("scheme", ["http://", ""])
def test_addresses_with_and_without_scheme_and_v1(
    form: str, scheme: str, taught_server: str, capfd: pytest.CaptureFixture[str]
) -> None:
    url = form.format(scheme + taught_server.removeprefix("http://"))
    assert call(["ask", QUESTION, "--url", url, "--humor", "4"]) == 0
    assert capfd.readouterr().out == f"{ANSWERS[4]}\n"


@pytest.mark.parametrize("command", [["ask", QUESTION], ["chat"]])
def test_a_reward_server_is_told_apart(
    command: list[str], reward_server: str, reward_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call([*command, "--url", reward_server]) == 2
    err = capfd.readouterr().err
    assert "serves the reward model 'reward'" in err and "steerlm serve generate" in err and "/v1/score" in err
    assert call([*command, "--model", str(reward_folder)]) == 2
    assert "is a reward model" in capfd.readouterr().err


class _OtherServer(BaseHTTPRequestHandler):
    """A server of another program: OpenAI's routes without ours, or none of them."""

    models: bytes | None = b'{"object": "list", "data": [{"id": "other", "object": "model"}]}'

    def do_GET(self) -> None:
        self._send(self.models if self.path == "/v1/models" else None)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        type(self).asked = body
        chunk = b'data: {"choices": [{"index": 0, "delta": {"content": "Hello."}}]}\n\ndata: [DONE]\n\n'
        self._send(chunk)

    asked = ""

    def _send(self, body: bytes | None) -> None:
        self.send_response(404 if body is None else 200)
        self.end_headers()
        self.wfile.write(body or b"<html>not found</html>")

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def other_server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _OtherServer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_another_program_s_server_is_asked_with_its_model_and_any_dials(
    other_server: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(["ask", "Hi", "--url", other_server, "--humor", "4"]) == 0
    assert capfd.readouterr().out == "Hello.\n"
    assert '"model": "other"' in _OtherServer.asked and '{"attributes": {"humor": 4}}' in _OtherServer.asked
    monkeypatch.setattr(_OtherServer, "models", None)
    assert call(["ask", "Hi", "--url", other_server]) == 2
    assert "not as a server of models" in capfd.readouterr().err
