# SPDX-License-Identifier: Apache-2.0
"""Clients that send slowly, or read nothing, against a real server process: others are served meanwhile."""

import contextlib
import json
import resource
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serving.test_run import free_port, process

CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
STARTS = {
    "nothing": b"",
    "half a header": HEAD[:40],
    "no end of headers": HEAD,
    "one byte of the body": HEAD + b"content-length: 100\r\n\r\n{",
    "a chunk of the body": HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n",
    "a GET with a body": b"GET /health HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{",
}
"""What slow clients send before they slow down to a byte now and then."""

SLOW, GOOD = 1200, 8


@pytest.fixture(scope="module", autouse=True)
def _files() -> Iterator[None]:
    """Enough open files for all clients in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(4096, hard)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class SlowClients:
    """Many connections that send `STARTS` in turn, then one byte every half second, until the server ends them."""

    def __init__(self, port: int, count: int) -> None:
        self.answers: list[tuple[str, bytes]] = []
        self._open: dict[socket.socket, tuple[str, bytes]] = {}
        self._selector = selectors.DefaultSelector()
        for number in range(count):
            kind = list(STARTS)[number % len(STARTS)]
            client = socket.create_connection(("127.0.0.1", port), timeout=30)
            client.setblocking(False)
            with contextlib.suppress(OSError):
                client.send(STARTS[kind])
            self._open[client] = kind, b""
            self._selector.register(client, selectors.EVENT_READ)

    @property
    def connected(self) -> int:
        return len(self._open)

    def run(self, until: Callable[[], bool]) -> None:
        """Drip, and note what each connection received when it ends."""
        drip = time.monotonic()
        while self._open and not until():
            for key, _ in self._selector.select(0.05):
                client: Any = key.fileobj
                kind, received = self._open[client]
                part = b""
                with contextlib.suppress(OSError):
                    part = client.recv(65536)
                self._open[client] = kind, received + part
                if not part:
                    self.answers.append(self._open.pop(client))
                    self._selector.unregister(client)
                    client.close()
            if time.monotonic() > drip:
                drip += 0.5
                for client, (kind, _) in self._open.items():
                    if kind != "nothing":
                        with contextlib.suppress(OSError):
                            client.send(b"a")

    def close(self) -> None:
        for client in self._open:
            client.close()


class GoodClients:
    """Threads that ask again and again, each time on a connection of its own, and keep the status and the time."""

    def __init__(self, port: int, retries: int) -> None:
        self.replies: list[tuple[int, float]] = []
        self._retries = retries
        self._stop = threading.Event()
        self._url = f"http://127.0.0.1:{port}/v1/chat/completions"
        self._threads = [threading.Thread(target=self._ask) for _ in range(GOOD)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        while not self._stop.is_set():
            started = time.monotonic()
            for _ in range(1 + self._retries):
                status = 0
                with contextlib.suppress(httpx.TransportError):
                    status = httpx.post(self._url, json=CHAT, timeout=60).status_code
                if status == 200:
                    break
            self.replies.append((status, time.monotonic() - started))

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@pytest.mark.parametrize("connections", [4096, 300])
def test_good_clients_are_served_beside_1200_slow_ones(
    connections: int, policy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    port = free_port()
    options = ("--receive-seconds", 6, "--max-connections", connections, "--max-in-flight", 16)
    with process(port, "generate", policy_folder, *options) as server:
        # At the limit a connection whose request has not been read yet may be closed: clients connect again.
        good = GoodClients(port, retries=0 if connections > SLOW else 2)
        slow = SlowClients(port, SLOW)
        try:
            before = len(good.replies)
            held = slow.connected
            deadline = time.monotonic() + 60
            slow.run(until=lambda: time.monotonic() > deadline)
            during = good.replies[before:]
        finally:
            good.stop()
            slow.close()
        assert server.is_alive()
        assert held == SLOW and slow.connected == 0, "every slow client is ended"
        assert len(during) >= GOOD
        assert {status for status, _ in good.replies} == {200}
        assert max(seconds for _, seconds in good.replies) < 20
        assert httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=CHAT, timeout=60).status_code == 200
    if connections > SLOW:
        for kind, received in slow.answers:
            if kind == "nothing":
                assert received == b""
            elif kind == "a GET with a body":
                assert received.startswith(b"HTTP/1.1 200")
            else:
                assert received.startswith(b"HTTP/1.1 408"), (kind, received)
                error = json.loads(received.partition(b"\r\n\r\n")[2])["error"]
                assert error["code"] == 408 and "6 seconds" in error["message"]


def test_half_sent_bodies_hold_no_slot(policy_folder: Path, serving: Callable[..., Any]) -> None:
    with serving(policy_folder, "generate", max_in_flight=2, receive_seconds=60) as (url, app):
        slow = SlowClients(int(url.rsplit(":", 1)[1]), 24)
        after = time.monotonic() + 1
        slow.run(until=lambda: time.monotonic() > after)
        assert slow.connected == 24 and app.state.in_flight == 0
        assert httpx.post(f"{url}/v1/chat/completions", json=CHAT, timeout=60).status_code == 200
        slow.close()


def test_many_large_bodies_share_a_limit(policy_folder: Path, serving: Callable[..., Any]) -> None:
    """Clients that stop before their last byte fill it; then a whole burst of bodies never exceeds it."""
    size, limit, kind = 1 << 20, 4 << 20, {"content-type": "application/json"}
    body = json.dumps(CHAT | {"unknown": ""}).encode()
    body = body[:-2] + b"x" * (size - len(body)) + body[-2:]
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
    head += b"content-length: %d\r\n\r\n"
    with serving(policy_folder, "generate", max_total_bytes=limit, receive_seconds=60) as (url, app):
        clients = [socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1]))) for _ in range(4)]
        for client in clients:
            client.sendall(head % size + body[:-1])
        while app.state.body_bytes < limit - 4:
            assert app.state.body_bytes <= limit
        refused = httpx.post(f"{url}/v1/chat/completions", json=CHAT, timeout=60)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert f"limit of {limit} bytes" in refused.json()["error"]["message"]
        assert httpx.get(f"{url}/health").status_code == 200
        clients[0].close()
        for client in clients[1:]:
            client.sendall(body[-1:])
            assert client.recv(65536).startswith(b"HTTP/1.1 400"), "the unknown field"
            client.close()
        most = 0

        def post(_: int) -> int:
            nonlocal most
            reply = httpx.post(f"{url}/v1/chat/completions", content=body, headers=kind, timeout=60)
            most = max(most, app.state.body_bytes)
            return reply.status_code

        with ThreadPoolExecutor(16) as pool:
            statuses = set(pool.map(post, range(64)))
        assert 400 in statuses <= {400, 429} and most <= limit
        assert httpx.post(f"{url}/v1/chat/completions", json=CHAT, timeout=60).status_code == 200
        until = time.monotonic() + 30
        while app.state.body_bytes:
            assert time.monotonic() < until, "every byte is given back"
            time.sleep(0.01)
        too_large = httpx.post(f"{url}/v1/chat/completions", content=b" " * (limit + 1), headers=kind, timeout=60)
        assert too_large.status_code == 413


def test_a_slow_body_does_not_hold_up_a_drain(policy_folder: Path, serving: Callable[..., Any]) -> None:
    with serving(policy_folder, "generate", receive_seconds=60) as (url, _):
        client = socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])))
        client.sendall(STARTS["one byte of the body"])
        assert httpx.get(f"{url}/health").status_code == 200
        started = time.monotonic()
    assert time.monotonic() - started < 10
    assert client.recv(65536).startswith(b"HTTP/1.1 503")
    client.close()


def test_a_client_that_reads_nothing_is_given_up(policy_folder: Path, serving: Callable[..., Any]) -> None:
    """Its response is larger than all buffers between the two."""
    many = {"sentences": ["A dog"] * 16, "tokens_to_generate": 200, "all_probs": True, "min_tokens_to_generate": 200}
    body = json.dumps(many).encode()
    request = b"PUT /generate HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    with serving(policy_folder, "generate", receive_seconds=1) as (url, app), socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", int(url.rsplit(":", 1)[1])))
        client.sendall(request)
        deadline = time.monotonic() + 60
        while not app.state.in_flight and time.monotonic() < deadline:
            time.sleep(0.01)
        assert client.recv(12) == b"HTTP/1.1 200"
        while app.state.in_flight and time.monotonic() < deadline:
            time.sleep(0.01)
        assert app.state.in_flight == 0
        time.sleep(3)
        client.settimeout(20)
        received = 0
        with contextlib.suppress(ConnectionResetError):
            while part := client.recv(1 << 20):
                received += len(part)
        assert received < 8_000_000, "the connection was cut before the end of the response"


def test_a_slow_reader_gets_its_whole_response(policy_folder: Path, serving: Callable[..., Any]) -> None:
    """It takes longer than the limit for all, but never pauses for so long."""
    many = {"sentences": ["A dog"] * 8, "tokens_to_generate": 100, "all_probs": True, "min_tokens_to_generate": 100}
    with serving(policy_folder, "generate", receive_seconds=4) as (url, _):
        with httpx.stream("PUT", f"{url}/generate", json=many, timeout=60) as reply:
            parts = []
            started = time.monotonic()
            for part in reply.iter_bytes(65536):
                parts.append(part)
                if time.monotonic() - started < 9:
                    time.sleep(0.1)
        assert len(json.loads(b"".join(parts))["full_logprob"]) == 8


def test_what_is_not_http_gets_the_common_error(policy_server: str) -> None:
    with socket.create_connection(("127.0.0.1", int(policy_server.rsplit(":", 1)[1]))) as client:
        client.sendall(b"hello?\r\n\r\n")
        head, _, body = client.recv(65536).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert json.loads(body)["error"]["message"] == "Invalid HTTP request received."
