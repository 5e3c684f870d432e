# SPDX-License-Identifier: Apache-2.0
"""Gateways before our own servers, which have the routes of a vLLM that a gateway uses; a server that misbehaves."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.serving.conftest import running

Answer = Callable[[BaseHTTPRequestHandler, bytes], None]


@pytest.fixture(scope="session")
def policy_gateway(policy_folder: Path, policy_server: str) -> Iterator[str]:
    with running(policy_folder, "generate", upstream={"url": policy_server}) as (url, _):
        yield url


@pytest.fixture(scope="session")
def taught_gateway(taught_folder: Path, taught_server: str) -> Iterator[str]:
    with running(taught_folder, "generate", upstream={"url": f"{taught_server}/v1"}) as (url, _):
        yield url


@pytest.fixture(scope="session")
def reward_gateway(reward_folder: Path, reward_server: str) -> Iterator[str]:
    with running(reward_folder, "reward", upstream={"url": reward_server}) as (url, _):
        yield url


@contextlib.contextmanager
def answering(routes: dict[str, Answer], port: int = 0) -> Iterator[str]:
    """A server of a few routes, for failures that no real server can be made to have."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            if self.path in routes:
                routes[self.path](self, body)
            else:
                send(self, 404, b'{"error": {"message": "no such route"}}')

        do_POST = do_GET  # noqa: N815

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def send(handler: BaseHTTPRequestHandler, status: int, body: bytes, **headers: str) -> None:
    handler.send_response(status)
    for name, value in {"content_type": "application/json", **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("content-length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)
