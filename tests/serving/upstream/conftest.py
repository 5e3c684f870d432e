# SPDX-License-Identifier: Apache-2.0
"""Gateways, without torch, before our own servers, which have the routes of a vLLM; a server that misbehaves."""

import contextlib
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from steerlm.serving.run import ServerKind
from tests.absent import without

Answer = Callable[[BaseHTTPRequestHandler, bytes], None]


@contextlib.contextmanager
def gateway(kind: ServerKind, folder: Path, upstream: str, log: Path, *more: str, **environment: str) -> Iterator[str]:
    """`steerlm serve --engine vllm` as a process in which torch is not installed, as in its image."""
    words = [kind, str(folder), "--engine", "vllm", "--upstream", upstream, "--port", "0", "--log-format", "json"]
    words += more
    command = [sys.executable, "-m", "steerlm.cli", "serve", *words]
    with log.open("w") as file:
        process = subprocess.Popen(command, env={**without("torch"), **environment}, stdout=file, stderr=file)
    url = ""
    try:
        while not url or not ready(url):
            assert process.poll() is None, f"the gateway does not start without torch:\n{log.read_text()}"
            if found := re.search(r"on (http://127\.0\.0\.1:\d+)", log.read_text()):
                url = found[1]
            time.sleep(0.02)
        yield url
    finally:
        process.terminate()
        status = process.wait(60)
    assert status == 0, log.read_text()


def ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="session")
def gateway_logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gateways")


@pytest.fixture(scope="session")
def policy_gateway(policy_folder: Path, policy_server: str, gateway_logs: Path) -> Iterator[str]:
    with gateway("generate", policy_folder, policy_server, gateway_logs / "policy") as url:
        yield url


@pytest.fixture(scope="session")
def taught_gateway(taught_folder: Path, taught_server: str, gateway_logs: Path) -> Iterator[str]:
    with gateway("generate", taught_folder, f"{taught_server}/v1", gateway_logs / "taught") as url:
        yield url


@pytest.fixture(scope="session")
def reward_gateway(reward_folder: Path, reward_server: str, gateway_logs: Path) -> Iterator[str]:
    with gateway("reward", reward_folder, reward_server, gateway_logs / "reward") as url:
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
