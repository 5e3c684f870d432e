# SPDX-License-Identifier: Apache-2.0
"""Collections of objects over HTTP or HTTPS as an API server has them, with the refusals that a test wants.

Faults cannot be timed in a real server; `tests/cluster` has the same code on a real one.
"""

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.jobs.kubernetes.fake_leases import merged
from tests.jobs.kubernetes.json_server import JsonHandler, serving, write_kubeconfig

Json = dict[str, Any]


class FakeApi:
    """Objects by the path of their collection. Watches have no events: they say that one has to list again.

    Attributes:
        refuse: Called with (verb such as `list`, path, token); returns an HTTP status, or 0 to answer.
        requests: What was asked: (verb, path, status of the answer).
    """

    def __init__(self) -> None:
        self.collections: dict[str, list[Json]] = {}
        self.refuse: Callable[[str, str, str], int] = lambda verb, path, token: 0
        self.requests: list[tuple[str, str, int]] = []
        self.mutex = threading.Lock()
        self.port, self.version = 0, 1

    def statuses(self, verb: str, path: str) -> list[int]:
        """The answers so far to one kind of request."""
        return [status for one, where, status in self.requests if (one, where) == (verb, path)]

    def kubeconfig(self, path: Path) -> Path:
        """Write a kubeconfig that names this server."""
        return write_kubeconfig(path, self.port, {"token": "fake"})

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Json) -> tuple[int, Json]:
        """Read or change the collections."""
        collection, _, name = path.rpartition("/")
        self.version += method != "GET"
        if method == "POST":
            one: Json = {**body, "metadata": {**body["metadata"], "uid": str(self.version)}}
            objects = self.collections.setdefault(path, [])
            if any(each["metadata"]["name"] == one["metadata"]["name"] for each in objects):
                return 409, {"message": "exists"}
            objects.append(self.stamped(one))
            return 201, one
        if method == "GET" and path in self.collections:
            wanted = dict(part.split("=") for part in query.get("labelSelector", [""])[0].split(",") if part)
            found = [one for one in self.collections[path] if wanted.items() <= labels(one).items()]
            return 200, {"metadata": {"resourceVersion": str(self.version)}, "items": found}
        objects = self.collections.get(collection, [])
        found = [one for one in objects if one["metadata"]["name"] == name]
        if not found:
            return 404, {"message": "not found"}
        if method == "DELETE":
            expected = body.get("preconditions", {}).get("resourceVersion")
            if expected not in (None, found[0]["metadata"]["resourceVersion"]):
                return 409, {"message": "conflict"}
            objects.remove(found[0])
        if method == "PATCH":
            objects[objects.index(found[0])] = found[0] = self.stamped(merged(found[0], body))
        return 200, found[0]

    def stamped(self, one: Json) -> Json:
        """Give an object its version."""
        one["metadata"]["resourceVersion"] = str(self.version)
        return one


def labels(one: Json) -> dict[str, str]:
    """The labels of an object."""
    found: dict[str, str] = one["metadata"].get("labels", {})
    return found


def _handler(api: FakeApi) -> type[JsonHandler]:
    class Handler(JsonHandler):
        def do_GET(self) -> None:  # noqa: N802
            url = urlsplit(self.path)
            query = parse_qs(url.query)
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
            token = (self.headers.get("Authorization") or "").partition(" ")[2]
            with api.mutex:
                reading = "list" if url.path in api.collections else "get"
                verb = {"GET": "watch" if "watch" in query else reading, "POST": "create"}.get(self.command)
                verb = verb or self.command.lower()
                status, content = api.refuse(verb, url.path, token), {}
                if status:
                    content = {"message": f'{url.path} is forbidden: User "launcher" cannot {verb} it'}
                elif verb == "watch":
                    status = 410 if int(query["resourceVersion"][0]) < api.version else 200
                else:
                    status, content = api.answer(self.command, url.path, query, body)
                api.requests.append((verb, url.path, status))
            if verb == "watch":
                time.sleep(0.05)  # it ends by itself without an event; after a change the client has to list again
                self.send(status, b"")
            else:
                self.send(status, json.dumps(content).encode())

        do_POST = do_PATCH = do_DELETE = do_GET  # noqa: N815

    return Handler


@contextmanager
def fake_api(tls: ssl.SSLContext | None = None) -> Iterator[FakeApi]:
    """Serve on a free port of this machine."""
    api = FakeApi()
    with serving(_handler(api), tls) as api.port:
        yield api
