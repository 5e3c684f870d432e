# SPDX-License-Identifier: Apache-2.0
"""What the stand-ins of an API server share: JSON over HTTP or HTTPS on a free port, and a kubeconfig that names it."""

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

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


@contextmanager
def serving(handler: type[JsonHandler], tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """Serve on a free port of this machine, which is returned."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
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
