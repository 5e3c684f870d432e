# SPDX-License-Identifier: Apache-2.0
"""A model hub on this machine: the part of the hub's protocol that its client uses to list and fetch files.

Real HTTP, so that resuming, redirects and refusals are the client's own doing. Large files (`*.safetensors`) are told
with their sha256, small ones with git's name of their content, as the hub does.
"""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """One model and how the hub behaves.

    `cut`: bytes of a file after which the connection breaks, once; `stall`: after which nothing more comes, once.
    `gone`: files that give 503 once cut. `ranges`: whether parts of files are given. `lies`: checksums told of files
    instead of their own; `longer`: bytes told too many. `token`: without it files are gated; `private`: without it the
    model is not seen. `down`: 500 for all.
    """

    repo: str = "org/tiny"
    files: dict[str, bytes] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=lambda: {"main": COMMIT})
    tags: list[str] = field(default_factory=lambda: ["license:tiny-license"])
    cut: dict[str, int] = field(default_factory=dict)
    stall: dict[str, int] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    ranges: bool = True
    longer: dict[str, int] = field(default_factory=dict)
    lies: dict[str, str] = field(default_factory=dict)
    token: str | None = None
    private: bool = False
    down: bool = False
    url: str = ""
    log: list[tuple[str, str, str | None]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def fetched(self) -> list[str]:
        """Files whose content was asked for, in order, with the range if there was one."""
        return [
            path.rpartition("/")[2] + (f" {span}" if span else "")
            for verb, path, span in self.log
            if verb == "GET" and "/resolve/" in path
        ]

    def describe(self, name: str) -> dict[str, Any]:
        content = self.files[name]
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        told: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": self.lies.get(name, blob)}
        if name.endswith(".safetensors"):
            size = told["size"] = len(content) + self.longer.get(name, 0)
            told["lfs"] = {"sha256": self.sha(name), "size": size, "pointerSize": 134}
        return told

    def sha(self, name: str) -> str:
        return self.lies.get(name) or hashlib.sha256(self.files[name]).hexdigest()


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve `hub` until the block ends; `hub.url` is its endpoint."""

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        hub.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        hub, path = self.hub, urlsplit(self.path).path
        hub.log.append((self.command, path, self.headers.get("Range")))
        granted = hub.token is None or self.headers.get("Authorization") == f"Bearer {hub.token}"
        if hub.down:
            self._refuse(500, None, "down")
        elif not path.removeprefix("/api/models").startswith(f"/{hub.repo}/") or (hub.private and not granted):
            self._refuse(401, "RepoNotFound", "Repository not found")
        elif found := re.fullmatch(rf"/api/models/{hub.repo}/revision/([^/]+)", path):
            commit = self._commit(found[1])
            if commit is None:
                self._refuse(404, "RevisionNotFound", "Invalid rev id")
                return
            told = [hub.describe(name) for name in hub.files]
            answer = {"id": hub.repo, "sha": commit, "tags": hub.tags, "siblings": told}
            self._send(json.dumps(answer).encode(), {}, body)
        elif not (found := re.fullmatch(rf"/{hub.repo}/resolve/([^/]+)/(.+)", path)) or found[2] not in hub.files:
            self._refuse(404, "EntryNotFound", "Entry not found")
        elif not granted:
            status = 403 if self.headers.get("Authorization") else 401
            self._refuse(status, "GatedRepo", f"Access to model {hub.repo} is restricted")
        elif found[1] != COMMIT:
            self._refuse(404, "RevisionNotFound", "Invalid rev id")
        else:
            self._file(found[2], body)

    def _commit(self, revision: str) -> str | None:
        return revision if revision in self.hub.branches.values() else self.hub.branches.get(revision)

    def _file(self, name: str, body: bool) -> None:
        content, status, headers = self.hub.files[name], 200, {"X-Repo-Commit": COMMIT}
        total = len(content)
        if name in self.hub.gone and name not in self.hub.cut:
            self._refuse(503, None, "gone for now")
            return
        if self.hub.ranges and (span := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))):
            start, end = int(span[1]), int(span[2] or total - 1)
            content, status = content[start : end + 1], 206
            headers["Content-Range"] = f"bytes {start}-{end}/{total}"
        for trouble in (self.hub.cut, self.hub.stall):
            if body and name in trouble:
                self._begin(status, len(content), headers)
                self.wfile.write(content[: trouble.pop(name)])
                self.wfile.flush()
                if trouble is self.hub.stall:
                    self.hub.ended.wait(60)
                self.close_connection = True
                return
        self._send(content, headers, body, status)

    def _send(self, content: bytes, headers: dict[str, str], body: bool, status: int = 200) -> None:
        self._begin(status, len(content), headers)
        if body:
            self.wfile.write(content)

    def _begin(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()

    def _refuse(self, status: int, code: str | None, message: str) -> None:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self._send(b"", headers, self.command == "GET", status)

    def log_message(self, format: str, *args: Any) -> None:
        """The requests are in `hub.log`."""
