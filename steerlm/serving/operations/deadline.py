# SPDX-License-Identifier: Apache-2.0
"""Middleware that ends requests that take too long: a 504, or in a stream an error line. Their work is canceled.

The time begins when the request's body is there; how long that may take is the connection's limit.
"""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from steerlm.serving.errors import ApiError, error_event, refuse
from steerlm.serving.request_record import current


class Deadline:
    """Middleware that gives a request `seconds`."""

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self._app, self._seconds = app, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http" or scope["method"] not in ("POST", "PUT"):
            await self._app(scope, receive, send)
            return
        begun: Message | None = None

        async def watched(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = message
            await send(message)

        timer = asyncio.timeout(self._seconds)
        try:
            async with timer:
                await self._app(scope, receive, watched)
        except TimeoutError:
            if not timer.expired():
                raise
            error = ApiError(f"not answered within this server's limit of {self._seconds:g} seconds", status=504)
            current().reason = "deadline"
            if begun is None:
                await refuse(send, scope["path"], error)
            elif _is_stream(begun):
                await send({"type": "http.response.body", "body": error_event(error).encode()})
            else:
                raise


def _is_stream(start: Message) -> bool:
    return any(name == b"content-type" and value.startswith(b"text/event-stream") for name, value in start["headers"])
