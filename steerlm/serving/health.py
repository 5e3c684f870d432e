# SPDX-License-Identifier: Apache-2.0
"""What is served and how it fares. Liveness and readiness differ: a draining server lives but wants no new work; one
that makes no progress does not live."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from steerlm.serving.errors import body_for

router = APIRouter()


class ModelReply(BaseModel):
    """`attributes`: the schema (names, low, high, defaults, trained); null for a base model. `window` in tokens.

    `identity`: equal for the same reward model, so that a resumed annotation can tell whether it is still asked.
    """

    id: str
    kind: str
    attributes: dict[str, Any] | None
    window: int
    identity: str | None = None


def _stuck(request: Request) -> JSONResponse:
    return JSONResponse(body_for(request.url.path, "the engine does not run or makes no progress", 503), 503)


@router.get("/health", tags=["health"], summary="Alive: the engine runs and makes progress")
async def health(request: Request) -> Any:
    return {"status": "ok"} if request.app.state.service.healthy else _stuck(request)


@router.get("/ready", tags=["health"], summary="Ready for new requests: alive and not draining")
async def ready(request: Request) -> Any:
    if request.app.state.draining:
        return JSONResponse(body_for(request.url.path, "the server is draining", 503), 503, {"Retry-After": "5"})
    return {"status": "ready"} if request.app.state.service.healthy else _stuck(request)


@router.get("/v1/model", tags=["model"], summary="What is served: kind, attribute schema, window")
async def model(request: Request) -> ModelReply:
    service = request.app.state.service
    schema = service.schema.model_dump(mode="json") if service.schema else None
    return ModelReply(
        id=service.name,
        kind=service.kind,
        attributes=schema,
        window=service.window,
        identity=service.identity,
    )


@router.get("/v1/models", tags=["model"], summary="The same as OpenAI clients ask for it")
async def models(request: Request) -> dict[str, Any]:
    service = request.app.state.service
    entry = {
        "id": service.name,
        "object": "model",
        "created": request.app.state.created,
        "owned_by": "steerlm",
        "max_model_len": service.window,
    }
    return {"object": "list", "data": [entry]}
