"""The server as a process: it starts from a folder, refuses the wrong one in one line, drains on a signal."""

import contextlib
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
from steerlm.serving.run import bind, build_app, serve


def command(words: list[str]) -> None:
    """In a process of its own: the command line, with its exit status."""
    os._exit(call(words))


@contextmanager
def process(port: int, *words: Any) -> Iterator[multiprocessing.process.BaseProcess]:
    """`steerlm serve ...`, ready; killed at the end whatever happens. Forked from a server that only imports."""
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
    """Exit status of a server that got a signal in the middle of four streams, and what each stream brought."""
    port = free_port()
    begun = [threading.Event() for _ in range(4)]
    streams = [""] * 4
    body = {"messages": [{"role": "user", "content": "Hi"}], "min_tokens": 200, "max_tokens": 200, "stream": True}

    def read(k: int) -> None:
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        with httpx.stream("POST", url, json=body, timeout=120) as reply:
            for text in reply.iter_text():
                streams[k] += text
                begun[k].set()

    with process(port, "generate", folder) as server:
        threads = [threading.Thread(target=read, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        assert all(event.wait(60) for event in begun)
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
