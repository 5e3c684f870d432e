# SPDX-License-Identifier: Apache-2.0
"""From a model folder to a running server: builds the service for its kind, runs uvicorn, drains on a signal.

Exit: SIGTERM lets requests in flight finish (at most `drain_seconds`) and returns; Ctrl-C does the same and raises
KeyboardInterrupt, a second one ends at once.
"""

import asyncio
import logging
import signal
import socket
import time
from pathlib import Path
from types import FrameType
from typing import Literal

import uvicorn
from fastapi import FastAPI
from fastapi.middleware.gzip import GZipMiddleware

from steerlm.errors import InputError, ModelError
from steerlm.inference.engine.engine import Engine
from steerlm.inference.loading import load
from steerlm.inference.scorer import TransformersScorer
from steerlm.models.folder import load_tokenizer, read_info
from steerlm.serving import nemo, scoring
from steerlm.serving.app import create_app, start
from steerlm.serving.config import ServeSettings
from steerlm.serving.generation import GenerationService
from steerlm.serving.kserve import routes as kserve
from steerlm.serving.openai import chat, completions
from steerlm.serving.scoring import ScoringService

logger = logging.getLogger(__name__)

QUIET = 0.5
"""Seconds without a request before a draining server closes its socket."""

Role = Literal["reward", "generate"]


def build_app(folder: str | Path, role: Role, settings: ServeSettings) -> FastAPI:
    """The app that serves `folder` as a reward model or for generation; raises `ModelError` if it is the other kind."""
    folder = Path(folder)
    name = settings.name or folder.resolve().name
    kind = read_info(folder).kind
    if (kind == "reward") != (role == "reward"):
        other = "generate" if role == "reward" else "reward"
        raise ModelError(f"{folder} is a {kind} model; serve it with: steerlm serve {other} {folder}")
    if role == "reward":
        scorer = TransformersScorer(folder)
        service = ScoringService(scorer, load_tokenizer(folder), name, settings)
        app = create_app(service, [scoring.router, kserve.router], settings)
        # Scores hardly shrink further at a higher level. Answers are not packed: they are small, or streamed.
        app.add_middleware(GZipMiddleware, compresslevel=1)
        return app
    loaded = load(folder, head=False)
    engine = Engine(loaded.model, loaded.tokenizer, loaded.window, settings.engine)
    schema = loaded.info.attributes if loaded.info.kind == "policy" else None
    routers = [nemo.router, chat.router, completions.router]
    return create_app(GenerationService(engine, schema, name, settings), routers, settings)


def serve(folder: str | Path, role: Role, settings: ServeSettings) -> None:
    """Serve until a signal. Raises `InputError` if the address cannot be used, `ModelError` if the model cannot."""
    listener = bind(settings.host, settings.port)  # before the model is loaded: a taken port is told at once
    with listener:
        app = build_app(folder, role, settings)
        server = DrainingServer(app, settings)
        logger.info("serving %s on http://%s:%d", app.state.service.name, settings.host, listener.getsockname()[1])
        server.run([listener])


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise InputError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --host or --port") from None
    return listener


class DrainingServer(uvicorn.Server):
    """uvicorn that says it is draining, and takes SIGTERM as the ordinary end."""

    def __init__(self, app: FastAPI, settings: ServeSettings) -> None:
        super().__init__(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=settings.drain_seconds))
        self._app, self._drain_seconds = app, settings.drain_seconds

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        # Before uvicorn's own start, which would log a failed self-test as a traceback.
        await start(self._app)
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Listening goes on while requests are in flight and until nobody has come for a moment: a request that is under
        # way when the socket closes would be cut off instead of told.
        state, began = self._app.state, time.monotonic()
        deadline = began + self._drain_seconds
        while not self.force_exit and (now := time.monotonic()) < deadline:
            if not state.in_flight and (not state.draining or now - max(began, state.refused_at) > QUIET):
                break
            await asyncio.sleep(0.02)
        self.config.timeout_graceful_shutdown = max(1, round(deadline - time.monotonic()))
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        logger.info("draining: requests in flight may take %s s", self._drain_seconds)
        self._app.state.draining = True
        if sig == signal.SIGTERM:
            # Not recorded, so that uvicorn does not kill the process with the same signal after a clean shutdown.
            self.should_exit = True
        else:
            super().handle_exit(sig, frame)
