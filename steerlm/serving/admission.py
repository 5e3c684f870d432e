# SPDX-License-Identifier: Apache-2.0
"""How a request enters the server and leaves it: limits on its body, slots in the queue, cancellation on disconnect."""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.datastructures import State
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from steerlm.serving.compression import WINDOW_BITS, Decompressor
from steerlm.serving.config import ServeSettings
from steerlm.serving.errors import ApiError, refuse
from steerlm.serving.health import HEALTH_PATHS
from steerlm.serving.request_record import current

Result = TypeVar("Result")


class AdmissionSlot:
    """The slots of the queue that one request holds: one for each answer it generates.

    `state.in_flight` counts the slots of all requests. A request holds one until its route knows its answers.
    """

    def __init__(self, state: State, limit: int) -> None:
        self._state, self._limit = state, limit
        self._held = 0

    def acquire(self, answers: int) -> None:
        """Hold this many slots from now on.

        Raises:
            ApiError: Status 429 if too few are free now, 400 if the server has fewer.
        """
        if answers > self._limit:
            raise ApiError(f"{answers} answers to one request; this server generates at most {self._limit} at a time")
        others = self._state.in_flight - self._held
        if others + answers > self._limit:
            raise ApiError(
                f"the server has {others} answers in flight and {answers} more would exceed its limit of "
                f"{self._limit}; try again later",
                status=429,
            )
        self._state.in_flight = others + answers
        self._held = answers

    def release(self) -> None:
        """Free the slots at the end of the request."""
        self._state.in_flight -= self._held
        self._held = 0


class HeldBytes:
    """The bytes of one request's body that are in memory; `state.body_bytes` counts those of all requests."""

    def __init__(self, state: State, limit: int) -> None:
        self._state, self._limit = state, limit
        self._held = 0

    def add(self, count: int) -> None:
        """Count more bytes. Raises `ApiError` with status 429 if all requests together have too many."""
        if self._state.body_bytes + count > self._limit:
            raise ApiError(
                f"the bodies of all requests would exceed this server's limit of {self._limit} bytes; try again later",
                status=429,
                reason="body_memory",
            )
        self._state.body_bytes += count
        self._held += count

    def release(self) -> None:
        """Count no bytes from now on."""
        self._state.body_bytes -= self._held
        self._held = 0


class RequestLimits:
    """Middleware that reads and decompresses a request's body, then gives the request a slot.

    A request holds no slot while its body is on the way; how long that may take is the connection's limit
    (`connections.py`). Refused are all requests while draining (503), new ones when the queue or the memory for bodies
    is full (429), bodies that are too large compressed or decompressed (413) or compressed in an unsupported way (415).
    A body counts from its first byte to the end of the response.
    """

    ALWAYS_OPEN = HEALTH_PATHS | {"/metrics"}

    def __init__(self, app: ASGIApp, state: State, settings: ServeSettings) -> None:
        self._app, self._state = app, state
        self._max_bytes = min(settings.max_body_bytes, settings.max_total_bytes)
        self._keep_bodies = settings.log_prompts
        self._max_total_bytes, self._max_in_flight = settings.max_total_bytes, settings.max_in_flight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request: put its `AdmissionSlot` into `request.state.slot` and pass it on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        slot = AdmissionSlot(self._state, self._max_in_flight)
        held = HeldBytes(self._state, self._max_total_bytes)
        try:
            await self._admit(scope, receive, send, slot, held)
        finally:
            slot.release()
            held.release()

    async def _admit(self, scope: Scope, receive: Receive, send: Send, slot: AdmissionSlot, held: HeldBytes) -> None:
        try:
            self._check_draining(scope)
            if scope["method"] in ("POST", "PUT"):
                body = await self._body(scope, receive, held)
                record = current()
                record.received = time.monotonic()
                if self._keep_bodies:
                    record.body = body
                receive = _replayed(body, receive)
                self._check_draining(scope)
                slot.acquire(1)
                scope.setdefault("state", {})["slot"] = slot
        except ApiError as refusal:
            await refuse(send, scope["path"], refusal)
            return
        except ClientDisconnect:
            return
        await self._app(scope, receive, send)

    def _check_draining(self, scope: Scope) -> None:
        if self._state.draining and scope["path"] not in self.ALWAYS_OPEN:
            self._state.refused_at = time.monotonic()
            raise ApiError("the server is shutting down", status=503)

    async def _body(self, scope: Scope, receive: Receive, held: HeldBytes) -> bytes:
        too_large = f"the request body is larger than {self._max_bytes} bytes; send less at a time"
        headers = dict(scope["headers"])
        length, encoding = headers.get(b"content-length", b""), headers.get(b"content-encoding", b"identity").lower()
        if length.isdigit() and int(length) > self._max_bytes:
            raise ApiError(too_large, status=413)
        if encoding != b"identity" and encoding not in WINDOW_BITS:
            supported = " and ".join(name.decode() for name in WINDOW_BITS)
            message = f"content-encoding {encoding.decode('latin-1')!r} is not supported; {supported} are"
            raise ApiError(message, status=415)
        decompressor = Decompressor(encoding) if encoding in WINDOW_BITS else None
        body, received, last = bytearray(), 0, False
        while not last:
            event = await receive()
            if event["type"] == "http.disconnect":
                raise ClientDisconnect
            part, last = event.get("body", b""), not event.get("more_body", False)
            received += len(part)
            if decompressor and received <= self._max_bytes:
                part = decompressor.feed(part, self._max_bytes + 1 - len(body), last=last)
            if max(received, len(body) + len(part)) > self._max_bytes:
                raise ApiError(too_large, status=413)
            held.add(len(part))
            body += part
        return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that starts with the whole body."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return messages.pop() if messages else await receive()

    return replayed


async def cancel_on_disconnect(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Return the result of `work`; cancel it if the client closes its connection first.

    The request's body must have been read. A streamed response needs no such watch: the server cancels it.

    Raises:
        ClientDisconnect: The client closed its connection.
    """
    task = asyncio.ensure_future(work)
    watcher = asyncio.create_task(_wait_for_disconnect(request))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        watcher.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
