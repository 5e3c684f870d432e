# SPDX-License-Identifier: Apache-2.0
"""The KServe v2 protocol of a reward model, as upstream's annotation client and any Triton client speak it.

Source: behaviour spec 3.1 (the PyTriton server of SteerLM: outputs `rewards` and `exceeded`), decisions "Annotation and
serving". A text longer than the window is no error here: its row is NaN and its `exceeded` is 1. Texts are scored as
they come, with or without the read-out mark: upstream's client warms a server up with a plain one. The inputs are
`kserve_inputs.py`, the bytes `tensors.py`.
"""

import asyncio
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

import steerlm
from steerlm.errors import nearest
from steerlm.serving.disconnect import while_connected
from steerlm.serving.errors import ApiError
from steerlm.serving.health import ready
from steerlm.serving.kserve.codec import (
    HEADER_LENGTH,
    InferRequest,
    RequestedOutput,
    read_request,
    write_reply,
)
from steerlm.serving.kserve.inputs import INPUTS, read_rows
from steerlm.serving.scoring import ScoringService

router = APIRouter(prefix="/v2", tags=["kserve"])

MODEL, VERSION = "reward_model", "1"
"""Upstream's name of the model; the server's own (`--name`) is taken too."""

_TRITON = {"BYTES": "TYPE_STRING"}

Model = "/models/{model}"
Versioned = Model + "/versions/{version}"


def _check(request: Request, model: str, version: str | None) -> ScoringService:
    service: ScoringService = request.app.state.service
    names = [MODEL, service.name]
    if model not in names:
        raise ApiError(f"no model {model!r} here{nearest(model, names)}", status=404)
    if version not in (None, VERSION):
        raise ApiError(f"model {model!r} has version {VERSION} only, not {version!r}", status=404)
    return service


@router.get("", summary="The server: name, version, extensions of the protocol")
async def server() -> dict[str, Any]:
    extensions = ["binary_tensor_data", "model_configuration"]
    return {"name": "steerlm", "version": steerlm.__version__, "extensions": extensions}


@router.get("/health/live", summary="Alive: the scoring thread runs")
async def live(request: Request) -> Response:
    return JSONResponse({}, 200 if request.app.state.service.healthy else 503)


@router.get("/health/ready", summary="Ready for new requests: alive and not draining")
async def server_ready(request: Request) -> Any:
    return await ready(request)


@router.get(Model, summary="The model's inputs and outputs")
@router.get(Versioned, summary="The model's inputs and outputs")
async def metadata(request: Request, model: str, version: str | None = None) -> dict[str, Any]:
    service = _check(request, model, version)
    return {
        "name": model,
        "versions": [VERSION],
        "platform": "steerlm",
        "inputs": [{"name": name, "datatype": kind, "shape": shape} for name, (kind, shape) in INPUTS.items()],
        "outputs": [
            {"name": "rewards", "datatype": "FP32", "shape": [-1, len(service.schema.names)]},
            {"name": "exceeded", "datatype": "INT32", "shape": [-1, 1]},
        ],
    }


@router.get(Model + "/ready", summary="Ready for new requests")
@router.get(Versioned + "/ready", summary="Ready for new requests")
async def model_ready(request: Request, model: str, version: str | None = None) -> Any:
    _check(request, model, version)
    return await ready(request)


@router.get(Model + "/config", summary="The model's configuration in Triton's form")
@router.get(Versioned + "/config", summary="The model's configuration in Triton's form")
async def config(request: Request, model: str, version: str | None = None) -> dict[str, Any]:
    service = _check(request, model, version)
    return {
        "name": model,
        "platform": "steerlm",
        "backend": "steerlm",
        "max_batch_size": service.settings.score.max_texts,
        # One of two ways to give a text: none of them is always needed.
        "input": [
            {"name": name, "data_type": _TRITON.get(kind, f"TYPE_{kind}"), "dims": shape[1:], "optional": True}
            for name, (kind, shape) in INPUTS.items()
        ],
        "output": [
            {"name": "rewards", "data_type": "TYPE_FP32", "dims": [len(service.schema.names)]},
            {"name": "exceeded", "data_type": "TYPE_INT32", "dims": [1]},
        ],
        "instance_group": [],
        "dynamic_batching": {"max_queue_delay_microseconds": int(service.settings.score.wait_ms * 1000)},
        "model_transaction_policy": {"decoupled": False},
        "parameters": {},
    }


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties}


_INPUT = _object(
    ["name", "datatype", "shape"],
    name={"enum": list(INPUTS)},
    datatype={"enum": sorted({kind for kind, _ in INPUTS.values()})},
    shape={"type": "array", "items": {"type": "integer", "minimum": 0}},
    data={"type": "array", "items": {"type": ["string", "boolean", "integer"]}},
)
_OUTPUT = _object(["name"], name={"enum": ["rewards", "exceeded"]})
_BODY = _object(
    ["inputs"],
    id={"type": "string"},
    inputs={"type": "array", "items": _INPUT, "minItems": 1},
    outputs={"type": "array", "items": _OUTPUT},
)
BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": _BODY}}}}


@router.post(Model + "/infer", summary="Scores of a batch of texts", openapi_extra=BODY)
@router.post(Versioned + "/infer", summary="Scores of a batch of texts", openapi_extra=BODY)
async def infer(request: Request, model: str, version: str | None = None) -> Response:
    service = _check(request, model, version)
    asked, binary = read_request(await request.body(), request.headers.get(HEADER_LENGTH))
    wanted = _outputs(asked)
    rows = await asyncio.to_thread(read_rows, asked, binary, service)
    rewards, exceeded = await while_connected(request, _score(service, rows))
    values = {"rewards": rewards, "exceeded": exceeded}
    head = {"model_name": model, "model_version": VERSION} | ({} if asked.id is None else {"id": asked.id})
    body, header = write_reply(head, [(out, values[out.name], asked.wants_binary(out)) for out in wanted])
    if header == len(body):
        return Response(body, media_type="application/json")
    return Response(body, headers={HEADER_LENGTH: str(header)}, media_type="application/octet-stream")


def _outputs(asked: InferRequest) -> list[RequestedOutput]:
    names = ["rewards", "exceeded"]
    wanted = asked.outputs or [RequestedOutput(name=name) for name in names]
    for output in wanted:
        if output.name not in names:
            raise ApiError(f"unknown output {output.name!r}{nearest(output.name, names)}")
    return wanted


async def _score(service: ScoringService, rows: list[list[int]]) -> tuple[Any, Any]:
    """(rewards [batch, attributes] fp32, exceeded [batch, 1] int32)."""
    exceeded = np.array([[len(row) > service.window] for row in rows], dtype=np.int32).reshape(-1, 1)
    rewards = np.full((len(rows), len(service.schema.names)), np.nan, dtype=np.float32)
    kept = np.flatnonzero(exceeded[:, 0] == 0)
    if len(kept):
        rewards[kept] = await service.batcher.score([rows[i] for i in kept])
    return rewards, exceeded
