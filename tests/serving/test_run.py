"""The server as a process: it starts from a folder, refuses the wrong one in one line, drains on a signal."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from steerlm.errors import InputError, ModelError
from steerlm.serving.config import ServeSettings
from steerlm.serving.run import bind, build_app, serve

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@contextmanager
def process(*words: Any) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`steerlm serve ...` on a free port, killed at the end whatever happens; yields its address too."""
    command = [sys.executable, "-m", "steerlm.cli", "serve", *map(str, words), "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    assert server.stderr is not None
    try:
        seen = ""
        for line in server.stderr:
            seen += line
            if found := re.search(r"serving \S+ on (http://\S+)", line):
                break
        else:
            raise AssertionError(seen)
        drain = threading.Thread(target=server.stderr.read, daemon=True)
        drain.start()
        while True:
            try:
                if httpx.get(f"{found[1]}/ready").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.05)
        yield server, found[1]
    finally:
        server.kill()
        server.wait()


def drained(sent: signal.Signals, folder: Path) -> tuple[int, list[httpx.Response]]:
    """Exit status of a server that got a signal with four requests in flight, and what became of those."""
    body = {"sentences": ["What is"], "tokens_to_generate": 300, "min_tokens_to_generate": 300, "greedy": True}
    replies: list[httpx.Response] = []
    with process("generate", folder) as (server, url):
        threads = [
            threading.Thread(target=lambda: replies.append(httpx.put(f"{url}/generate", json=body, timeout=60)))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.4)
        assert not replies
        server.send_signal(sent)
        for thread in threads:
            thread.join()
        return server.wait(timeout=30), replies


def test_a_signal_lets_requests_in_flight_finish(policy_folder: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        ends = list(pool.map(lambda sent: drained(sent, policy_folder), [signal.SIGTERM, signal.SIGINT]))
    assert [status for status, _ in ends] == [0, 130]
    for _, replies in ends:
        assert [reply.status_code for reply in replies] == [200] * 4
        assert all(len(reply.json()["token_ids"][0]) > 300 for reply in replies)


def test_the_wrong_kind_of_folder_is_one_line(policy_folder: Path, reward_folder: Path, tmp_path: Path) -> None:
    for role, folder, message in (
        ("reward", policy_folder, "is a policy model; serve it with: steerlm serve generate"),
        ("generate", reward_folder, "is a reward model; serve it with: steerlm serve reward"),
        ("generate", tmp_path / "nothing", "no such model folder"),
    ):
        with pytest.raises(ModelError, match=message):
            build_app(folder, role, ServeSettings())


def test_a_taken_port_is_told_before_the_model_is_loaded(tmp_path: Path) -> None:
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

    monkeypatch.setattr(TransformersScorer, "score", lambda self, texts: np.full((len(texts), 4), 0.25, np.float32))
    with pytest.raises(ModelError, match="softmax"):
        serve(reward_folder, "reward", ServeSettings(port=0))
