# SPDX-License-Identifier: Apache-2.0
"""The application factory: one FastAPI app, whose routes depend on what it serves, a reward model or a policy.

Knows the life of a service (start, self-test, drain, stop) and what all routes share: the error body, the size limit,
the refusal of new work while draining. The routes are in their own files; running it under uvicorn is `run.py`.
"""

import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator
from typing import Protocol

from fastapi import APIRouter, FastAPI
from starlette.datastructures import State
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import steerlm
from steerlm.attributes import AttributeSchema
from steerlm.serving import errors as replies
from steerlm.serving import health
from steerlm.serving.admission import Place
from steerlm.serving.compression import WINDOW_BITS, Unpacker
from steerlm.serving.config import ServeSettings
from steerlm.serving.errors import ApiError

logger = logging.getLogger(__name__)


class Service(Protocol):
    """What an app serves: a scorer or a generation engine with all that its routes need."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def schema(self) -> AttributeSchema | None: ...
    @property
    def window(self) -> int: ...
    @property
    def identity(self) -> str | None: ...
    @property
    def healthy(self) -> bool: ...

    async def start(self) -> None:
        """Make it ready and test it; raises `ModelError` if what it gives cannot be right."""

    async def stop(self) -> None: ...


def create_app(service: Service, routers: list[APIRouter], settings: ServeSettings) -> FastAPI:
    """An app whose `state` carries `service`, `settings`, `draining`, `in_flight` (places taken), `created`,
    and `refused_at` (monotonic seconds: when it last refused a request because it drains)."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await start(app)
        try:
            yield
        finally:
            app.state.draining = True
            await service.stop()

    app = FastAPI(title="SteerLM", version=steerlm.__version__, lifespan=lifespan)
    app.state.service, app.state.settings, app.state.draining = service, settings, False
    app.state.started, app.state.in_flight, app.state.refused_at = False, 0, 0.0
    app.state.created = int(time.time())
    replies.install(app)
    app.include_router(health.router)
    for router in routers:
        app.include_router(router)
    app.add_middleware(Gate, state=app.state, settings=settings)
    return app


async def start(app: FastAPI) -> None:
    """Start the app's service once; what fails is stopped again. Raises `ModelError` if the self-test fails."""
    if app.state.started:
        return
    try:
        await app.state.service.start()
    except BaseException:
        await app.state.service.stop()
        raise
    app.state.started = True


class Gate:
    """Refuses work before it is read into memory: while draining (503), when the queue is full (429), too large, packed
    or unpacked (413), packed as nobody here can unpack (415). Routes see a packed body unpacked.

    A request takes a place of the queue here, and one for each further answer when its route knows how many it makes.
    """

    OPEN = ("/health", "/ready", "/v2/health/live")

    def __init__(self, app: ASGIApp, state: State, settings: ServeSettings) -> None:
        self._app, self._state, self._limit = app, state, settings.max_body_bytes
        self._places = settings.max_in_flight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._state.draining and scope["path"] not in self.OPEN:
            self._state.refused_at = time.monotonic()
            await _refuse(send, scope["path"], "the server is shutting down", 503)
            return
        if scope["method"] not in ("POST", "PUT"):
            await self._app(scope, receive, send)
            return
        place = Place(self._state, self._places)
        try:
            place.take(1)
        except ApiError as full:
            await _refuse(send, scope["path"], str(full), full.status)
            return
        scope.setdefault("state", {})["place"] = place
        try:
            await self._limited(scope, receive, send)
        finally:
            place.leave()

    async def _limited(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = f"the request body is larger than {self._limit} bytes; send less at a time"
        headers = dict(scope["headers"])
        length, encoding = headers.get(b"content-length", b""), headers.get(b"content-encoding", b"identity").lower()
        if length.isdigit() and int(length) > self._limit:
            await _refuse(send, scope["path"], message, 413)
            return
        if encoding != b"identity" and encoding not in WINDOW_BITS:
            known = " and ".join(name.decode() for name in WINDOW_BITS)
            refused = f"content-encoding {encoding.decode('latin-1')!r} is not offered; {known} are"
            await _refuse(send, scope["path"], refused, 415)
            return
        unpacker = Unpacker(encoding) if encoding in WINDOW_BITS else None
        arrived = unpacked = 0

        async def counted() -> Message:
            nonlocal arrived, unpacked
            part = await receive()
            arrived += len(part.get("body", b""))
            if unpacker and part["type"] == "http.request" and arrived <= self._limit:
                last = not part.get("more_body", False)
                part["body"] = unpacker.take(part.get("body", b""), self._limit + 1 - unpacked, last=last)
                unpacked += len(part["body"])
            if max(arrived, unpacked) > self._limit:
                raise HTTPException(413, message)
            return part

        await self._app(scope, counted, send)


async def _refuse(send: Send, path: str, message: str, status: int) -> None:
    body = json.dumps(replies.body_for(path, message, status)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.encode(), value.encode()) for name, value in replies.headers_for(status).items()]
    if status == 503:
        headers.append((b"connection", b"close"))  # the next request would find this server gone
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
