# SPDX-License-Identifier: Apache-2.0
"""Middleware that asks every request for an API key, `Authorization: Bearer KEY`, and holds the key to its limits.

Before a request's body is read. Without a key answer: probes, `/metrics` if it is opened, and the static files of the
studio, whose page sends the key that its user types.
"""

from starlette.types import ASGIApp, Receive, Scope, Send

from steerlm.serving.errors import ApiError, refuse
from steerlm.serving.health import HEALTH_PATHS
from steerlm.serving.operations.key_limits import UsageOfKeys
from steerlm.serving.operations.keys import KeyRing
from steerlm.serving.request_record import current

STUDIO = "/studio"
METRICS = "/metrics"


class Authentication:
    """Middleware that admits requests with a key of the ring.

    Args:
        app: The app behind it.
        ring: The keys.
        open_metrics: Whether `/metrics` needs none.
    """

    def __init__(self, app: ASGIApp, ring: KeyRing, open_metrics: bool) -> None:
        self._app, self._ring = app, ring
        self._open = HEALTH_PATHS | ({METRICS} if open_metrics else set())
        self._usage = UsageOfKeys()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request: pass it on with its key's name in the record, or refuse it."""
        if scope["type"] != "http" or self._is_open(scope):
            await self._app(scope, receive, send)
            return
        key = self._ring.find(_bearer(scope))
        if key is None:
            message = "no valid API key; send one in the header Authorization: Bearer KEY"
            await refuse(send, scope["path"], ApiError(message, status=401))
            return
        record, usage = current(), self._usage.of(key)
        record.key, record.spend = key.name, usage.spend
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
            return
        try:
            usage.enter()
        except ApiError as refusal:
            await refuse(send, scope["path"], refusal)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            usage.leave()

    def _is_open(self, scope: Scope) -> bool:
        path = scope["path"]
        if path in self._open:
            return True
        return scope["method"] in ("GET", "HEAD") and (path == STUDIO or path.startswith(f"{STUDIO}/"))


def _bearer(scope: Scope) -> str:
    """Return the key that a request carries; empty if none."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            kind, _, text = value.decode("latin-1").partition(" ")
            if kind.lower() == "bearer":
                return text.strip()
    return ""
