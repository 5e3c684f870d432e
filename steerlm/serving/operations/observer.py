# SPDX-License-Identifier: Apache-2.0
"""Middleware around all others that follows a request from its headers to the end of its response.

It makes the request's record and id, which the response returns, and reports the record when the response has ended.
"""

import re
import time
import uuid
from collections.abc import Callable, Sequence

from fastapi.routing import iter_route_contexts
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from steerlm.serving.operations.metrics import REASONS
from steerlm.serving.request_record import OTHER, RequestRecord, TokenSink, enter, leave

REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
"""An id that is taken from a client: nothing that could pretend to be another line of the log."""

METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"))

Reporter = Callable[[RequestRecord, float], None]
"""Takes a finished request and the seconds from its headers to the end of its response."""


class RequestObserver:
    """Middleware that reports every request.

    Args:
        app: The app behind it.
        reporters: Called when a response has ended.
        sink: Where tokens are counted.
        describe: Called before the end of a response is sent.
    """

    def __init__(
        self,
        app: ASGIApp,
        reporters: Sequence[Reporter],
        sink: TokenSink,
        describe: Callable[[RequestRecord], None] | None,
    ) -> None:
        self._app, self._reporters, self._sink, self._describe = app, reporters, sink, describe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method = scope["method"] if scope["method"] in METHODS else "other"
        client = scope.get("client")
        record = RequestRecord(
            id=_request_id(scope),
            method=method,
            path=scope.get("raw_path", b"").decode("latin-1") or scope["path"],
            client=client[0] if client else "",
            sink=self._sink,
        )
        # For the response to an unexpected error, which is made outside of this middleware.
        scope.setdefault("state", {})["record"] = record
        complete = False

        async def watched(message: Message) -> None:
            nonlocal complete
            if message["type"] == "http.response.start":
                record.status = message["status"]
                record.reason = record.reason or REASONS.get(record.status)
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", record.id.encode())]
            elif message["type"] == "http.response.body":
                complete = not message.get("more_body", False)
                if complete and self._describe:
                    record.route = route_of(scope)
                    self._describe(record)  # a span ends with its response
            await send(message)

        token = enter(record)
        try:
            await self._app(scope, receive, watched)
        except Exception:
            record.status = record.status or 500
            record.reason = record.reason or REASONS[500]
            raise
        finally:
            record.status = record.status or 499
            if not complete and record.status < 500:
                record.reason = record.reason or REASONS[499]
            leave(token)
            record.route = route_of(scope)
            seconds = time.monotonic() - record.started
            for report in self._reporters:
                report(record, seconds)


def route_of(scope: Scope) -> str:
    """Return the path of a request's route with placeholders; "other" if no route has the path.

    A request that a middleware refuses never comes to the router: its route is the one that has its path.
    """
    chosen = getattr(scope.get("route"), "path", None)
    if chosen is None:
        routes = iter_route_contexts(scope["app"].routes)
        chosen = next((route.path for route in routes if route.path_regex.match(scope["path"])), None)
    return chosen or OTHER


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and REQUEST_ID.fullmatch(value):
            return str(value.decode())
    return uuid.uuid4().hex
