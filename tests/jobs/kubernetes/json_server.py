# SPDX-License-Identifier: Apache-2.0
"""What the stand-ins of an API server share: JSON over HTTP or HTTPS on a free port, and a kubeconfig that names it."""

import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml


class JsonHandler(BaseHTTPRequestHandler):
    """Answers on a connection that stays open, without a log."""

    protocol_version = "HTTP/1.1"

    def send(self, status: int, text: bytes) -> None:
        """Send a whole response."""
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:
        pass


class JsonServer(ThreadingHTTPServer):
    """A server whose end closes its connections and ends their threads, so that none lives on in the next test."""

    daemon_threads = False  # server_close waits for them

    def __init__(self, handler: type[JsonHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.connections: set[socket.socket] = set()

    def get_request(self) -> tuple[socket.socket, Any]:
        request, address = super().get_request()
        self.connections.add(request)  # before its thread begins: one that was just accepted is closed too
        return request, address

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]
        super().shutdown_request(request)
        self.connections.discard(request)

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), OSError):  # a client or this server's end closed the connection
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    def server_close(self) -> None:
        for connection in self.connections.copy():
            with suppress(OSError):  # closed by its client in the meantime
                connection.shutdown(socket.SHUT_RDWR)
        super().server_close()


@contextmanager
def serving(handler: type[JsonHandler], tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """Serve on a free port of this machine, which is returned."""
    server = JsonServer(handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def write_kubeconfig(path: Path, port: int, user: dict[str, str]) -> Path:
    """Write a kubeconfig with the server and a user's credentials."""
    config = {
        "clusters": [{"name": "fake", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
        "users": [{"name": "fake", "user": user}],
        "current-context": "fake",
    }
    path.write_text(yaml.safe_dump(config))
    return path
