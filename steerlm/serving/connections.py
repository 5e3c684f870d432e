# SPDX-License-Identifier: Apache-2.0
"""How long a client may keep a connection waiting, and how many connections there may be.

A request reaches the app when its headers are complete, so a client that sends them byte by byte is invisible to it.
uvicorn closes idle connections between requests; its `limit_concurrency` refuses good clients as soon as bad ones hold
enough connections, and it has no time limit for headers, body or a response that nobody reads. Those are here, in a
subclass of its protocol; other ASGI servers lack some of them too.
"""

import asyncio
import json
import logging
import resource
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from steerlm.serving.config import ServeSettings
from steerlm.serving.errors import body_for, headers_for
from steerlm.serving.operations.metrics import REASONS

logger = logging.getLogger(__name__)

SPARE_FILES = 256
"""Open files of a server beside its connections."""


class GuardedProtocol(H11Protocol):
    """uvicorn's protocol for a connection, with a deadline for each request and a limit on connections.

    From the moment it connects, or its last response is complete, a client has `receive_seconds` to send a whole
    request, headers and body; then it gets a 408. A response of which a client reads nothing for that long is given up.
    One connection more than `max_connections` closes the one that has been waiting longest for its client; if all are
    being answered, the new one gets a 503.
    """

    receive_seconds: float
    max_connections: int
    refused: Callable[[str], None]

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.deadline: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    @property
    def awaits_client(self) -> bool:
        """Whether there is no whole request that is not answered yet."""
        return self.cycle is None or self.cycle.more_body or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the deadline; at the limit, close a connection."""
        super().connection_made(transport)
        self._update_deadline()
        if len(self.connections) > self.max_connections:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers."""
        for timer in (self.deadline, self._unread):
            if timer:
                timer.cancel()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Handle what was received; a whole request stops the deadline."""
        super().handle_events()
        self._update_deadline()

    def on_response_complete(self) -> None:
        """Start the deadline of the next request."""
        super().on_response_complete()
        self._update_deadline()
        self._watch_closing()

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection, which was idle."""
        super().timeout_keep_alive_handler()
        self._watch_closing()

    def shutdown(self) -> None:
        """Close the connection now, or after its response if a whole request is being answered."""
        if self.awaits_client:
            self.finish("the server is shutting down", 503)
        else:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP, with the common error body."""
        self.finish(msg, 400)

    def finish(self, message: str, status: int) -> None:
        """Close a connection that waits for its client, with an error response if a part of a request has arrived."""
        if self.transport.is_closing():
            return
        answerable = self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE)
        if answerable and (self.conn.their_state is not h11.IDLE or self.conn.trailing_data[0]):
            self.transport.write(self._error_response(message, status))
            self.refused(REASONS[status])
        if self.cycle:
            self.cycle.disconnected = True
        self.transport.close()
        self._watch_closing()

    def pause_writing(self) -> None:
        """Watch whether the client reads: more of the response waits for it than the buffer should hold."""
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        """End the watch: the client has read."""
        super().resume_writing()
        if self._unread:
            self._unread.cancel()
        self._unread = None
        self._watch_closing()

    def _watch_closing(self) -> None:
        # A transport that closes first sends what is in its buffer.
        if self.transport.is_closing() and self.transport.get_write_buffer_size() and not self._unread:
            self._watch_reader()

    def _watch_reader(self) -> None:
        unread = self.transport.get_write_buffer_size()

        def check() -> None:
            if self.transport.get_write_buffer_size() < unread:
                self._watch_reader()
            else:
                logger.warning("a client read nothing of its response for %g seconds", self.receive_seconds)
                self.transport.abort()

        self._unread = self.loop.call_later(self.receive_seconds, check)

    def _update_deadline(self) -> None:
        if not self.awaits_client or self.transport.is_closing():
            if self.deadline:
                self.deadline.cancel()
            self.deadline = None
        elif self.deadline is None:
            message = f"no whole request within {self.receive_seconds:g} seconds"
            self.deadline = self.loop.call_later(self.receive_seconds, self.finish, message, 408)

    def _make_room(self) -> None:
        others = [one for one in self.connections if isinstance(one, GuardedProtocol) and one is not self]
        waiting = [(one.deadline.when(), one) for one in others if one.deadline]
        if waiting:
            _, longest = min(waiting, key=lambda pair: pair[0])
            longest.finish(f"no whole request yet, and the server has {self.max_connections} connections", 408)
        else:
            self.transport.write(self._error_response(f"the server has {self.max_connections} connections", 503))
            self.refused("connections")
            self.transport.close()
        # At once: more may be accepted before the loop reports the loss.
        self.connections.discard(longest if waiting else self)

    def _error_response(self, message: str, status: int) -> bytes:
        path = self.scope["path"] if self.scope else ""
        body = json.dumps(body_for(path, message, status)).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
        head = h11.Response(
            status_code=status, headers=list((headers | headers_for(status)).items()), reason=STATUS_PHRASES[status]
        )
        return b"".join(self.conn.send(event) or b"" for event in (head, h11.Data(data=body), h11.EndOfMessage()))


def guarded_protocol(settings: ServeSettings, refused: Callable[[str], None]) -> type[GuardedProtocol]:
    """Return the protocol with the limits of a server, whose process gets enough file descriptors for them.

    Args:
        settings: The limits.
        refused: Called with the reason of every request that is refused before the app sees it.
    """
    limit = settings.max_connections
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = limit + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))
        if allowed < needed:
            limit = max(1, allowed - SPARE_FILES)
            logger.warning("open files are limited to %d (ulimit -n): at most %d connections", allowed, limit)
    limits = {
        "receive_seconds": settings.receive_seconds,
        "max_connections": limit,
        "refused": staticmethod(refused),
    }
    return type("GuardedProtocol", (GuardedProtocol,), limits)
