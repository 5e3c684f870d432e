# SPDX-License-Identifier: Apache-2.0
"""The Leases of an API server over a dictionary, for the real client: create, read, merge patch, delete, and faults.

Faults cannot be timed in a real server; `tests/cluster/test_leases.py` has the same lock on a real one.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.jobs.kubernetes.json_server import JsonHandler, serving, write_kubeconfig


class FakeLeases:
    """`leases` by name. `status`: every request is refused with it; `dropped`: answers of so many changes get lost."""

    def __init__(self) -> None:
        self.leases: dict[str, dict[str, Any]] = {}
        self.status, self.dropped, self.version = 0, 0, 0
        self.mutex = threading.Lock()
        self.port = 0

    def put(self, name: str, **spec: Any) -> None:
        """Write a Lease as another pod does."""
        with self.mutex:
            self.store({"metadata": {"name": name}, "spec": spec})

    def store(self, lease: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        lease["metadata"]["resourceVersion"] = str(self.version)
        self.leases[lease["metadata"]["name"]] = lease
        return lease

    def only(self) -> dict[str, Any]:
        """Return the spec of the one Lease."""
        (lease,) = self.leases.values()
        spec: dict[str, Any] = lease["spec"]
        return spec

    def kubeconfig(self, path: Path) -> Path:
        """Write a kubeconfig that names this server."""
        return write_kubeconfig(path, self.port, {})


def merged(old: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON merge patch (RFC 7386) applied to an object."""
    new = dict(old)
    for name, value in patch.items():
        if value is None:
            new.pop(name, None)
        else:
            new[name] = merged(new.get(name, {}), value) if isinstance(value, dict) else value
    return new


def _handler(server: FakeLeases) -> type[JsonHandler]:
    class Handler(JsonHandler):
        def do_GET(self) -> None:  # noqa: N802
            self._answer(*self._change(lambda name, body: server.leases.get(name)))

        def do_POST(self) -> None:  # noqa: N802
            def create(_: str, body: dict[str, Any]) -> dict[str, Any] | int:
                return 409 if body["metadata"]["name"] in server.leases else server.store(body)

            self._answer(*self._change(create), change=True)

        def do_PATCH(self) -> None:  # noqa: N802
            def patch(name: str, body: dict[str, Any]) -> dict[str, Any] | int | None:
                old = server.leases.get(name)
                if old and body["metadata"].get("resourceVersion") != old["metadata"]["resourceVersion"]:
                    return 409
                return old and server.store(merged(old, body))

            self._answer(*self._change(patch), change=True)

        def do_DELETE(self) -> None:  # noqa: N802
            self._answer(*self._change(lambda name, body: server.leases.pop(name, None)))

        def _change(self, action: Any) -> tuple[int, Any]:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else {}
            if server.status:
                return server.status, {"message": 'refused: User "launcher" cannot'}
            with server.mutex:
                result = action(self.path.rpartition("/")[2], body)
            if result is None or isinstance(result, int):
                return result or 404, {"message": "conflict" if result else "not found"}
            return 200, result

        def _answer(self, status: int, content: Any, change: bool = False) -> None:
            if change and status == 200 and server.dropped:
                server.dropped -= 1
                self.close_connection = True
                return
            self.send(status, json.dumps(content).encode())

    return Handler


@contextmanager
def fake_leases() -> Iterator[FakeLeases]:
    """Serve on a free port of this machine."""
    fake = FakeLeases()
    with serving(_handler(fake)) as fake.port:
        yield fake
