# SPDX-License-Identifier: Apache-2.0
"""Run a server for a model folder: build the service for its kind, run uvicorn, drain on a signal.

SIGTERM lets requests in flight finish (at most `drain_seconds`) and returns; Ctrl-C does the same and raises
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
from steerlm.inference.engine.engine import GenerationEngine
from steerlm.inference.loading import load
from steerlm.inference.scorer import TransformersScorer
from steerlm.models.folder import load_tokenizer, read_info
from steerlm.serving import classify, nemo, scoring
from steerlm.serving.app import create_app, start
from steerlm.serving.config import ServeSettings
from steerlm.serving.connections import guarded_protocol
from steerlm.serving.generation import GenerationService
from steerlm.serving.kserve import routes as kserve
from steerlm.serving.openai import chat, completions
from steerlm.serving.scoring import ScoringService
from steerlm.serving.studio import about, files, ratings, scores
from steerlm.serving.studio.parts import add_studio

logger = logging.getLogger(__name__)

QUIET_SECONDS = 0.5
"""A draining server closes its socket after this time without a new request."""

ServerKind = Literal["reward", "generate"]


def build_app(folder: str | Path, server: ServerKind, settings: ServeSettings) -> FastAPI:
    """Return the app that serves `folder`.

    Raises:
        ModelError: The folder's model is of the other kind.
    """
    folder = Path(folder)
    name = settings.name or folder.resolve().name
    kind = read_info(folder).kind
    if (kind == "reward") != (server == "reward"):
        other = "generate" if server == "reward" else "reward"
        raise ModelError(f"{folder} is a {kind} model; serve it with: steerlm serve {other} {folder}")
    if server == "reward":
        scorer = TransformersScorer(folder)
        service = ScoringService(scorer, load_tokenizer(folder), name, settings)
        app = create_app(service, [scoring.router, classify.router, kserve.router], settings)
        # Higher levels hardly compress scores further. Answers are not compressed: they are small, or streamed.
        app.add_middleware(GZipMiddleware, compresslevel=1)
        return app
    loaded = load(folder, head=False)
    engine = GenerationEngine(loaded.model, loaded.tokenizer, loaded.window, settings.engine)
    schema = loaded.info.attributes if loaded.info.kind == "policy" else None
    routers = [nemo.router, chat.router, completions.router]
    app = create_app(GenerationService(engine, schema, name, settings), routers, settings)
    if settings.studio:
        add_studio(app, [files.router, about.router, scores.router, ratings.router], settings)
    return app


def serve(folder: str | Path, server: ServerKind, settings: ServeSettings) -> None:
    """Serve a folder until a signal arrives.

    Raises:
        InputError: The address cannot be used.
        ModelError: The model cannot be served.
    """
    listener = bind(settings.host, settings.port)  # before the model is loaded: an occupied port fails at once
    with listener:
        app = build_app(folder, server, settings)
        port = listener.getsockname()[1]
        logger.info("serving %s on http://%s:%d", app.state.service.name, settings.host, port)
        DrainingServer(app, settings).run([listener])


def bind(host: str, port: int) -> socket.socket:
    """Return a bound socket; port 0 takes a free one.

    Raises:
        InputError: The address cannot be used.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise InputError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --host or --port") from None
    return listener


class DrainingServer(uvicorn.Server):
    """uvicorn that refuses requests with 503 while it drains, and treats SIGTERM as a normal end."""

    def __init__(self, app: FastAPI, settings: ServeSettings) -> None:
        config = uvicorn.Config(
            app,
            http=guarded_protocol(settings),
            ws="none",
            log_config=None,
            timeout_graceful_shutdown=settings.drain_seconds,
        )
        super().__init__(config)
        self._app, self._drain_seconds = app, settings.drain_seconds

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the service, then uvicorn, which would log a failed self-test as a traceback."""
        await start(self._app)
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, then shut down uvicorn.

        The socket stays open while requests are in flight and until no request has arrived for a moment: a request that
        arrives while it closes would be cut off instead of refused.
        """
        state, started = self._app.state, time.monotonic()
        deadline = started + self._drain_seconds
        while not self.force_exit and (now := time.monotonic()) < deadline:
            quiet = now - max(started, state.refused_at) > QUIET_SECONDS
            if not state.in_flight and (not state.draining or quiet):
                break
            await asyncio.sleep(0.02)
        self.config.timeout_graceful_shutdown = max(1, round(deadline - time.monotonic()))
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start to drain."""
        logger.info("draining: requests in flight have %s s to finish", self._drain_seconds)
        self._app.state.draining = True
        if sig == signal.SIGTERM:
            # Not recorded: uvicorn would send itself the same signal after a clean shutdown.
            self.should_exit = True
        else:
            super().handle_exit(sig, frame)
