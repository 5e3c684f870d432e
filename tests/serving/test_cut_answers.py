# SPDX-License-Identifier: Apache-2.0
"""No answer ends in a part of the turn's mark, wherever its length limit cuts it and by whichever way it is asked."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from steerlm.client import get_answer
from steerlm.inference.config import SamplingSettings
from steerlm.inference.generator import TransformersGenerator
from steerlm.inference.http_chat import HttpChat
from steerlm.prompt import render_prompt
from steerlm.records import Turn
from tests.serving.conftest import ANSWERS, QUESTION

LABELS = "quality:4,toxicity:0,humor:4"
PROMPT = render_prompt([Turn(value=QUESTION, speaker="User")], LABELS)
ANSWER = ANSWERS[4]
LIMITS = range(1, 30)
"""Up to where the answer and the pieces of the mark after it are complete."""

Ask = Callable[[str, int], str]


def chat(server: str, limit: int) -> str:
    body = {"messages": [{"role": "user", "content": QUESTION}], "attributes": {"humor": 4}, "temperature": 0}
    reply = httpx.post(f"{server}/v1/chat/completions", json={**body, "max_tokens": limit}, timeout=60).json()
    return str(reply["choices"][0]["message"]["content"])


def completion(server: str, limit: int) -> str:
    body = {"prompt": PROMPT, "temperature": 0, "max_tokens": limit}
    return str(httpx.post(f"{server}/v1/completions", json=body, timeout=60).json()["choices"][0]["text"])


def stream(server: str, limit: int) -> str:
    body = {"prompt": PROMPT, "temperature": 0, "max_tokens": limit, "stream": True}
    events = httpx.post(f"{server}/v1/completions", json=body, timeout=60).text.split("\n\n")
    texts = [json.loads(event[6:])["choices"][0]["text"] for event in events if event.startswith("data: {")]
    return "".join(texts)


def left_stream(server: str, limit: int) -> str:
    """What has arrived when the client leaves after `limit` chunks."""
    body = {"prompt": PROMPT, "temperature": 0, "max_tokens": 60, "stream": True, "logprobs": 0}
    text = ""
    with httpx.stream("POST", f"{server}/v1/completions", json=body, timeout=60) as reply:
        lines = (line for line in reply.iter_lines() if line.startswith("data: {"))
        for line, _ in zip(lines, range(limit), strict=False):
            text += json.loads(line[6:])["choices"][0]["text"]
    return text


def nemo(server: str, limit: int) -> str:
    body = {"sentences": [PROMPT], "greedy": True, "tokens_to_generate": limit}
    sentence = str(httpx.put(f"{server}/generate", json=body, timeout=60).json()["sentences"][0])
    # This route keeps the stop string, as upstream, and so the newline before it.
    return sentence.removeprefix(PROMPT).removesuffix("<extra_id_1>").removesuffix("\n")


def client(server: str, limit: int) -> str:
    return get_answer(QUESTION, limit, LABELS, int(server.rsplit(":", 1)[1]))


def evaluation(server: str, limit: int) -> str:
    settings = SamplingSettings(max_tokens=limit)
    return HttpChat(server).complete([QUESTION], [{"humor": 4}], settings, 0)[0]


@pytest.mark.parametrize("ask", [chat, completion, stream, left_stream, nemo, client, evaluation])
def test_every_length_limit_gives_a_beginning_of_the_answer(taught_server: str, ask: Ask) -> None:
    answers = [ask(taught_server, limit) for limit in LIMITS]
    assert all(ANSWER.startswith(answer) for answer in answers), answers
    assert answers == sorted(answers, key=len) and answers[-1] == ANSWER
    assert answers.count(ANSWER) > 8, "the mark has several pieces, and each of them was the last one"


def test_offline_generation_is_cut_alike(taught_folder: Path, taught_server: str) -> None:
    generator = TransformersGenerator(taught_folder)
    for limit in LIMITS:
        ((one,),) = generator.generate([PROMPT], sampling=SamplingSettings(max_tokens=limit))
        assert one.text == chat(taught_server, limit)
        assert len(one.ids) == limit or one.finish_reason == "stop"


class OtherServer(BaseHTTPRequestHandler):
    """A server that returns the text up to the token of the limit, as vLLM does."""

    def do_GET(self) -> None:
        self._answer({"data": [{"id": "other"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert body["stop"] == ["\n<extra_id_1>", "<extra_id_1>"]
        cut = body["messages"][0]["content"] == "cut"
        message = {"content": "seven owls\n<extra_id" if cut else "seven <"}
        self._answer({"choices": [{"message": message, "finish_reason": "length" if cut else "stop"}]})

    def log_message(self, *_: Any) -> None:
        """Write nothing."""

    def _answer(self, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def test_an_evaluation_removes_what_another_server_left_of_the_mark() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), OtherServer) as server:
        threading.Thread(target=server.serve_forever).start()
        answerer = HttpChat(f"http://127.0.0.1:{server.server_port}")
        assert answerer.complete(["cut", "whole"], [{}, {}], SamplingSettings(), 0) == ["seven owls", "seven <"]
        server.shutdown()
