# SPDX-License-Identifier: Apache-2.0
"""Health, readiness and the model's description.

A draining server is healthy but not ready; a server that makes no progress is not healthy.
"""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from steerlm.errors import nearest
from steerlm.serving.errors import ApiError, body_for, headers_for

router = APIRouter()


class ModelDescription(BaseModel):
    """What is served.

    `attributes`: the schema (names, low, high, defaults, trained); null for a base model. `window`: in tokens.
    `identity`: equal for the same reward model, so that a resumed annotation can check that it uses the same one.
    """

    id: str
    kind: str
    attributes: dict[str, Any] | None
    window: int
    identity: str | None = None


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
    if request.app.state.draining:
        return JSONResponse(body_for(request.url.path, "the server is draining", 503), 503, headers_for(503))
    return _status(request, "ready")


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
    )


@router.get("/v1/models", tags=["model"], summary="The model in the form OpenAI clients expect")
async def models(request: Request) -> dict[str, Any]:
    """List the one model."""
    return {"object": "list", "data": [_entry(request)]}


@router.get("/v1/models/{model_id:path}", tags=["model"], summary="The same for one model, by its id")
async def one_model(request: Request, model_id: str) -> dict[str, Any]:
    """Return the one model."""
    name = request.app.state.service.name
    if model_id != name:
        raise ApiError(f"no model {model_id!r} here{nearest(model_id, [name])}", param="model", status=404)
    return _entry(request)


def _entry(request: Request) -> dict[str, Any]:
    service = request.app.state.service
    return {
        "id": service.name,
        "object": "model",
        "created": request.app.state.created,
        "owned_by": "steerlm",
        "max_model_len": service.window,
    }
