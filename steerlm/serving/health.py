# SPDX-License-Identifier: Apache-2.0
"""Probes and the model's description.

A draining server is alive but not ready; a server that makes no progress is not alive. The socket is opened when the
model has passed its self-test, so that before it every probe is refused a connection.
"""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from steerlm.errors import nearest
from steerlm.serving.errors import ApiError, body_for, headers_for
from steerlm.serving.presets import Preset, model_ids
from steerlm.serving.request_record import current

router = APIRouter()

HEALTH_PATHS = frozenset(("/health", "/ready", "/livez", "/readyz", "/startupz", "/v2/health/live", "/v2/health/ready"))
"""Paths of probes: they need no key, are answered while the server drains, and are not logged one by one."""


class ModelDescription(BaseModel):
    """What is served.

    `attributes`: the schema (names, low, high, defaults, trained); null for a base model. `window`: in tokens.
    `identity`: equal for the same reward model, so that a resumed annotation can check that it uses the same one.
    `presets`: attributes by name; the model `id:name` has them.
    """

    id: str
    kind: str
    attributes: dict[str, Any] | None
    window: int
    identity: str | None = None
    presets: dict[str, Preset] = {}


def _status(request: Request, status: str) -> Response:
    if request.app.state.service.healthy:
        return JSONResponse({"status": status})
    return JSONResponse(body_for(request.url.path, "the engine is not running or makes no progress", 503), 503)


@router.get("/health", tags=["health"], summary="Alive: the engine runs and makes progress")
async def health(request: Request) -> Response:
    """Answer liveness probes."""
    return _status(request, "ok")


@router.get("/ready", tags=["health"], summary="Ready for new requests: alive and not draining")
async def ready(request: Request) -> Response:
    """Answer readiness probes."""
    if not request.app.state.started:
        return _not_started(request)
    if request.app.state.draining:
        return JSONResponse(body_for(request.url.path, "the server is draining", 503), 503, headers_for(503))
    if not request.app.state.service.available and request.app.state.service.healthy:
        message = "the upstream that runs the model does not answer"
        current().reason = "upstream"
        return JSONResponse(body_for(request.url.path, message, 503), 503, headers_for(503))
    return _status(request, "ready")


@router.get("/livez", tags=["health"], summary="Alive: the engine is idle or makes progress; else restart it")
async def livez(request: Request) -> Response:
    """Answer liveness probes, as `/health`."""
    return _status(request, "alive")


@router.get("/readyz", tags=["health"], summary="Ready: self-test passed, alive and not draining")
async def readyz(request: Request) -> Response:
    """Answer readiness probes, as `/ready`."""
    return await ready(request)


@router.get("/startupz", tags=["health"], summary="Started: model loaded and self-test passed")
async def startupz(request: Request) -> Response:
    """Answer startup probes."""
    if request.app.state.started:
        return JSONResponse({"status": "started"})
    return _not_started(request)


def _not_started(request: Request) -> Response:
    message = "the model is being loaded or tested"
    return JSONResponse(body_for(request.url.path, message, 503), 503, headers_for(503))


@router.get("/v1/model", tags=["model"], summary="What is served: kind, attribute schema, window")
async def model(request: Request) -> ModelDescription:
    """Describe the model."""
    service = request.app.state.service
    schema = service.schema.model_dump(mode="json") if service.schema else None
    return ModelDescription(
        id=service.name,
        kind=service.kind,
        attributes=schema,
        window=service.window,
        identity=service.identity,
        presets=dict(service.presets),
    )


@router.get("/v1/models", tags=["model"], summary="The model and its presets in the form OpenAI clients expect")
async def models(request: Request) -> dict[str, Any]:
    """List the model, then its presets."""
    service = request.app.state.service
    ids = model_ids(service.name, service.presets)
    return {"object": "list", "data": [_entry(request, name, preset) for name, preset in ids.items()]}


@router.get("/v1/models/{model_id:path}", tags=["model"], summary="The same for one of them, by its id")
async def one_model(request: Request, model_id: str) -> dict[str, Any]:
    """Return the model or a preset."""
    service = request.app.state.service
    ids = model_ids(service.name, service.presets)
    if model_id not in ids:
        raise ApiError(f"no model {model_id!r} here{nearest(model_id, ids)}", param="model", status=404)
    return _entry(request, model_id, ids[model_id])


def _entry(request: Request, name: str, preset: Preset | None) -> dict[str, Any]:
    service = request.app.state.service
    entry = {
        "id": name,
        "object": "model",
        "created": request.app.state.created,
        "owned_by": "steerlm",
        "max_model_len": service.window,
    }
    return entry if preset is None else {**entry, "parent": service.name, **preset.model_dump()}
