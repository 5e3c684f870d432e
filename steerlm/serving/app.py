# SPDX-License-Identifier: Apache-2.0
"""The application factory: one FastAPI app whose routes depend on the model, a reward model or a policy.

Here is the life of a service (start, self-test, stop). Running the app under uvicorn is `run.py`.
"""

import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from typing import Protocol

from fastapi import APIRouter, FastAPI
from fastapi.middleware.cors import CORSMiddleware

import steerlm
from steerlm.attributes import AttributeSchema
from steerlm.serving import errors, health, pages
from steerlm.serving.admission import RequestLimits
from steerlm.serving.config import ServeSettings
from steerlm.serving.presets import Preset


class Service(Protocol):
    """What an app serves: a scorer or a generation engine, with everything its routes need."""

    @property
    def name(self) -> str:
        """Name of the served model, which clients send as `model`."""

    @property
    def kind(self) -> str:
        """Kind of model: "reward", "policy" or "base"."""

    @property
    def schema(self) -> AttributeSchema | None:
        """Attributes that the model rates or follows; None for a base model."""

    @property
    def window(self) -> int:
        """Context window in tokens: of a text to score, or of prompt and answer together."""

    @property
    def identity(self) -> str | None:
        """Digest that identifies the model, see `model_identity`; None if unknown."""

    @property
    def healthy(self) -> bool:
        """Whether the thread that computes is alive and makes progress."""

    @property
    def available(self) -> bool:
        """Whether requests can be answered now. An upstream may be away while this server is healthy."""

    @property
    def presets(self) -> Mapping[str, Preset]:
        """Attributes by name, which requests may choose by the model's id."""

    async def start(self) -> None:
        """Start and test the service.

        Raises:
            ModelError: The self-test failed.
        """

    async def stop(self) -> None:
        """Stop the computing thread; also called after a failed start."""


def create_app(service: Service, routers: list[APIRouter], settings: ServeSettings) -> FastAPI:
    """Create the app of a service.

    Its `state` has `service`, `settings`, `started`, `draining`, `created` (Unix time), `in_flight` (slots held, see
    `AdmissionSlot`), `body_bytes` (bodies of requests being received or answered) and `refused_at` (monotonic time of
    the last request refused while draining).
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await start(app)
        try:
            yield
        finally:
            app.state.draining = True
            await service.stop()

    app = FastAPI(title="SteerLM", version=steerlm.__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service, app.state.settings, app.state.draining = service, settings, False
    app.state.started, app.state.in_flight, app.state.body_bytes, app.state.refused_at = False, 0, 0, 0.0
    app.state.created = int(time.time())
    errors.install(app)
    app.include_router(health.router)
    app.include_router(pages.router)
    for router in routers:
        app.include_router(router)
    app.add_middleware(RequestLimits, state=app.state, settings=settings)
    if settings.cors_origins:
        # Outside the limits: a page must be able to read a refusal too.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["retry-after"],
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
