# SPDX-License-Identifier: Apache-2.0
"""The application factory: one FastAPI app whose routes depend on the model, a reward model or a policy.

Here is the life of a service (start, self-test, stop). Running the app under uvicorn is `run.py`.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from fastapi import APIRouter, FastAPI
from fastapi.middleware.cors import CORSMiddleware

import steerlm
from steerlm.serving import errors, health, pages
from steerlm.serving.admission import RequestLimits
from steerlm.serving.config import ServeSettings
from steerlm.serving.document import DocumentedApp
from steerlm.serving.operations import logs, metrics, tracing
from steerlm.serving.operations.authentication import Authentication
from steerlm.serving.operations.deadline import Deadline
from steerlm.serving.operations.keys import KeyRing
from steerlm.serving.operations.observer import RequestObserver
from steerlm.serving.service import Service


def create_app(service: Service, routers: list[APIRouter], settings: ServeSettings) -> FastAPI:
    """Create the app of a service.

    Its `state` has `service`, `settings`, `metrics`, `started`, `draining`, `created` (Unix time), `in_flight` (slots
    held, see `AdmissionSlot`), `body_bytes` (bodies of requests being received or answered) and `refused_at` (monotonic
    time of the last request refused while draining).

    Raises:
        ConfigError: The file of API keys cannot be used.
    """
    provider = tracing.provider_from_environment()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await start(app)
        try:
            yield
        finally:
            app.state.draining = True
            await service.stop()
            if provider:
                await asyncio.to_thread(provider.shutdown)  # sends the last spans

    app = DocumentedApp(
        title="SteerLM",
        version=steerlm.__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        telemetry=tracing.telemetry(provider),
    )
    app.state.service, app.state.settings, app.state.draining = service, settings, False
    app.state.started, app.state.in_flight, app.state.body_bytes, app.state.refused_at = False, 0, 0, 0.0
    app.state.created = int(time.time())
    app.state.metrics = measured = metrics.ServingMetrics(service, app.state)
    errors.install(app)
    app.include_router(health.router)
    app.include_router(metrics.router)
    app.include_router(pages.router)
    for router in routers:
        app.include_router(router)
    # From the inside out.
    if settings.request_seconds:
        app.add_middleware(Deadline, seconds=settings.request_seconds)
    app.add_middleware(RequestLimits, state=app.state, settings=settings)
    if settings.api_keys:
        failures = measured.reload_failures.labels("api_keys")
        ring = KeyRing(settings.api_keys, failures.inc)
        app.add_middleware(Authentication, ring=ring, open_metrics=settings.open_metrics)
    if settings.cors_origins:
        # Outside the limits: a page must be able to read a refusal too.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["retry-after", "x-request-id"],
        )
    app.add_middleware(
        RequestObserver,
        reporters=[measured.finished, logs.log_request],
        sink=measured,
        describe=tracing.describe_request if provider else None,
    )
    return app


async def start(app: FastAPI) -> None:
    """Start the app's service unless it is started; stop it if that fails.

    Raises:
        ModelError: The self-test failed.
    """
    if app.state.started:
        return
    try:
        await app.state.service.start()
    except BaseException:
        await app.state.service.stop()
        raise
    app.state.started = True
