# SPDX-License-Identifier: Apache-2.0
"""Run a server for a model folder: build the service for its kind, run uvicorn, drain on a signal.

SIGTERM lets requests in flight finish (at most `drain_seconds`) and returns; Ctrl-C does the same and raises
KeyboardInterrupt, a second one ends at once.
"""

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import uvicorn
from fastapi import FastAPI
from fastapi.middleware.gzip import GZipMiddleware

from steerlm.errors import InputError, ModelError
from steerlm.models.folder import read_info
from steerlm.serving import classify, nemo, scoring
from steerlm.serving.app import create_app, start
from steerlm.serving.config import ServeSettings
from steerlm.serving.connections import guarded_protocol
from steerlm.serving.engines import AnswerEngine, ScoreEngine
from steerlm.serving.generation import GenerationService
from steerlm.serving.kserve import routes as kserve
from steerlm.serving.openai import chat, completions
from steerlm.serving.operations.files import check_files
from steerlm.serving.operations.tls import TlsFiles
from steerlm.serving.presets import load_presets
from steerlm.serving.ranking import Ranker
from steerlm.serving.scoring import ScoringService
from steerlm.serving.studio import about, files, ratings, scores
from steerlm.serving.studio.parts import add_studio
from steerlm.serving.upstream.generation import UpstreamEngine
from steerlm.serving.upstream.scoring import UpstreamScorer

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
    info = read_info(folder)
    kind = info.kind
    if (kind == "reward") != (server == "reward"):
        other = "generate" if server == "reward" else "reward"
        raise ModelError(f"{folder} is a {kind} model; serve it with: steerlm serve {other} {folder}")
    upstream = settings.upstream.url is not None
    if server == "reward":
        scorer, tokenizer = _upstream_scorer(folder, settings) if upstream else _in_process_scorer(folder, settings)
        service = ScoringService(scorer, tokenizer, name, settings)
        app = create_app(service, [scoring.router, classify.router, kserve.router], settings)
        # Higher levels hardly compress scores further. Answers are not compressed: they are small, or streamed.
        app.add_middleware(GZipMiddleware, compresslevel=1)
        return app
    schema = info.attributes if kind == "policy" else None
    presets = load_presets(settings.presets, schema) if settings.presets else {}
    ranker = Ranker(settings.reward_server) if settings.reward_server.url else None
    engine: AnswerEngine = UpstreamEngine(folder, settings) if upstream else _in_process_engine(folder, settings)
    answers = GenerationService(engine, schema, name, settings, presets=presets, ranker=ranker)
    app = create_app(answers, [nemo.router, chat.router, completions.router], settings)
    if settings.studio:
        add_studio(app, [files.router, about.router, scores.router, ratings.router], settings)
    return app


# A server before an upstream runs where torch is not installed, so what computes is imported by who asks for it.
def _in_process_engine(folder: Path, settings: ServeSettings) -> AnswerEngine:
    with _what_computes():
        from steerlm.serving.in_process import load_engine
    return load_engine(folder, settings)


def _in_process_scorer(folder: Path, settings: ServeSettings) -> tuple[ScoreEngine, Any]:
    with _what_computes():
        from steerlm.serving.in_process import load_scorer
    return load_scorer(folder, settings)


@contextlib.contextmanager
def _what_computes() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        message = f"running a model needs {error.name}: pip install 'steerlm[serve]', or --engine vllm --upstream URL"
        raise InputError(message) from None


def _upstream_scorer(folder: Path, settings: ServeSettings) -> tuple[ScoreEngine, Any]:
    scorer = UpstreamScorer(folder, settings)
    return scorer, scorer.tokenizer


def serve(folder: str | Path, server: ServerKind, settings: ServeSettings) -> None:
    """Serve a folder until a signal arrives.

    Raises:
        InputError: The address cannot be used.
        ModelError: The model cannot be served.
    """
    listener = bind(settings.host, settings.port)  # before the model is loaded: an occupied port fails at once
    with listener:
        check_files(settings)
        app = build_app(folder, server, settings)
        port = listener.getsockname()[1]
        scheme = "https" if settings.tls_cert else "http"
        logger.info("serving %s on %s://%s:%d", app.state.service.name, scheme, settings.host, port)
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
            http=guarded_protocol(settings, app.state.metrics.refused),
            ws="none",
            log_config=None,
            access_log=False,  # `operations.observer` logs requests
            timeout_graceful_shutdown=settings.drain_seconds,
        )
        super().__init__(config)
        if settings.tls_cert and settings.tls_key:
            failures = app.state.metrics.reload_failures.labels("tls")
            config.load()
            config.ssl = TlsFiles(settings.tls_cert, settings.tls_key, failures.inc).context
        self._app, self._drain_seconds = app, settings.drain_seconds

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the service, then uvicorn, which would log a failed self-test as a traceback."""
        starting = asyncio.ensure_future(start(self._app))
        # A signal ends the wait for an upstream that is still loading its model.
        while not self.should_exit and not (await asyncio.wait({starting}, timeout=0.1))[0]:
            pass
        if not starting.done():
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            return
        await starting
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
