# SPDX-License-Identifier: Apache-2.0
"""The server as a process: starting from a folder, refusing a folder of the wrong kind, draining on a signal."""

import asyncio
import contextlib
import json
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from steerlm.cli.main import call
from steerlm.errors import InputError, ModelError
from steerlm.serving.config import ServeSettings
from steerlm.serving.run import ServerKind, bind, build_app, serve


def command(words: list[str]) -> None:
    """Run the command line in this process and exit with its status."""
    os._exit(call(words))


@contextmanager
def process(port: int, *words: Any) -> Iterator[multiprocessing.process.BaseProcess]:
    """`steerlm serve ...`, ready; killed at the end. Forked from a process that only has the imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["steerlm.serving.run"])
    server = context.Process(target=command, args=(["serve", *map(str, words), "--port", str(port)],))
    server.start()
    try:
        while True:
            assert server.is_alive()
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"http://127.0.0.1:{port}/ready").status_code == 200:
                    break
            time.sleep(0.05)
        yield server
    finally:
        server.kill()
        server.join()


def free_port() -> int:
    with bind("127.0.0.1", 0) as listener:
        return int(listener.getsockname()[1])


def drained(sent: signal.Signals, folder: Path) -> tuple[int, list[str]]:
    """Return the exit status of a server that got a signal in the middle of four streams, and the streams."""
    port = free_port()
    started = [threading.Event() for _ in range(4)]
    streams = [""] * 4
    body = {"messages": [{"role": "user", "content": "Hi"}], "min_tokens": 200, "max_tokens": 200, "stream": True}

    def read(k: int) -> None:
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        with httpx.stream("POST", url, json=body, timeout=120) as reply:
            for text in reply.iter_text():
                streams[k] += text
                started[k].set()

    with process(port, "generate", folder) as server:
        threads = [threading.Thread(target=read, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        assert all(event.wait(60) for event in started)
        assert server.pid is not None
        os.kill(server.pid, sent)
        for thread in threads:
            thread.join()
        server.join(60)
        assert server.exitcode is not None
        return server.exitcode, streams


def test_a_signal_lets_requests_in_flight_finish(policy_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with ThreadPoolExecutor(2) as pool:
        ends = list(pool.map(lambda sent: drained(sent, policy_folder), [signal.SIGTERM, signal.SIGINT]))
    assert [status for status, _ in ends] == [0, 130]
    for _, streams in ends:
        assert all(text.endswith('"finish_reason": "length"}]}\n\ndata: [DONE]\n\n') for text in streams)


TURN = "<extra_id_1>User\nA dog\n<extra_id_2>"
CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 40, "min_tokens": 40}
TENSOR = {"name": "sentences", "datatype": "BYTES", "shape": [1, 1], "data": [TURN]}
REQUESTS: dict[str, list[tuple[str, str, dict[str, Any]]]] = {
    "generate": [
        ("POST", "/v1/chat/completions", CHAT),
        ("POST", "/v1/chat/completions", CHAT | {"stream": True}),
        ("POST", "/v1/completions", {"prompt": "A dog", "max_tokens": 40, "min_tokens": 40, "logprobs": 1}),
        ("PUT", "/generate", {"sentences": ["A dog"], "tokens_to_generate": 40, "min_tokens_to_generate": 40}),
    ],
    "reward": [
        ("POST", "/v1/score", {"texts": [TURN]}),
        ("POST", "/v2/models/reward_model/infer", {"inputs": [TENSOR]}),
    ],
}


def whole(path: str, body: dict[str, Any], text: str) -> bool:
    """Return whether the response to one of `REQUESTS` is complete."""
    if body.get("stream"):
        return text.endswith("data: [DONE]\n\n") and '"finish_reason": "length"' in text
    reply = json.loads(text)
    if path == "/v1/chat/completions":
        return bool(reply["usage"]["completion_tokens"] == 40)
    if path == "/v1/completions":
        return len(reply["choices"][0]["logprobs"]["tokens"]) == 40
    if path == "/generate":
        return len(reply["token_ids"][0]) > 40 and reply["sentences"][0].startswith("A dog")
    return len(reply["scores"] if "scores" in reply else reply["outputs"]) in (1, 2)


@pytest.mark.parametrize("role", ["generate", "reward"])
def test_a_drain_under_64_clients_loses_no_accepted_request(
    role: str, policy_folder: Path, reward_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    port = free_port()
    answered, refused = 0, []

    async def client(http: httpx.AsyncClient, number: int, pid: int) -> None:
        """Send requests until one is refused."""
        nonlocal answered
        method, path, body = REQUESTS[role][number % len(REQUESTS[role])]
        while True:
            try:
                reply = await http.request(method, f"http://127.0.0.1:{port}{path}", json=body)
            except httpx.ConnectError:
                refused.append(0)
                return
            if reply.status_code == 503:
                assert reply.headers["retry-after"] and "shutting down" in reply.text
                refused.append(503)
                return
            assert reply.status_code == 200 and whole(path, body, reply.text), reply.text
            answered += 1
            if answered == 96:
                os.kill(pid, signal.SIGTERM)

    async def clients(pid: int) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None if role == "generate" else 0)
        async with httpx.AsyncClient(timeout=60, limits=limits) as http:
            await asyncio.gather(*(client(http, number, pid) for number in range(64)))

    with process(port, role, policy_folder if role == "generate" else reward_folder) as server:
        assert server.pid is not None
        asyncio.run(clients(server.pid))
        server.join(60)
        assert server.exitcode == 0
    assert len(refused) == 64 and 503 in refused
    assert answered > 96


def test_the_wrong_kind_of_folder_is_one_line(policy_folder: Path, reward_folder: Path, tmp_path: Path) -> None:
    cases: list[tuple[ServerKind, Path, str]] = [
        ("reward", policy_folder, "is a policy model; serve it with: steerlm serve generate"),
        ("generate", reward_folder, "is a reward model; serve it with: steerlm serve reward"),
        ("generate", tmp_path / "nothing", "no such model folder"),
    ]
    for server_kind, folder, message in cases:
        with pytest.raises(ModelError, match=message):
            build_app(folder, server_kind, ServeSettings())


def test_an_occupied_port_fails_before_the_model_is_loaded(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"cannot listen on 127.0.0.1:{port}"):
            serve(tmp_path / "nothing", "generate", ServeSettings(port=port))
    with pytest.raises(InputError, match="cannot listen on"):
        bind("no.such.host.invalid", 0)


def test_a_model_that_fails_its_self_test_is_one_line(reward_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    from steerlm.inference.scorer import TransformersScorer

    softmax = np.full((2, 4), 0.25, np.float32)
    monkeypatch.setattr(TransformersScorer, "score_tokens", lambda self, rows: softmax[: len(rows)])
    with pytest.raises(ModelError, match="softmax"):
        serve(reward_folder, "reward", ServeSettings(port=0))
