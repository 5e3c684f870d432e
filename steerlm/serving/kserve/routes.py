# SPDX-License-Identifier: Apache-2.0
"""The KServe v2 protocol of a reward model, for upstream's annotation client and any Triton client.

The outputs `rewards` and `exceeded` are those of SteerLM's PyTriton server (docs/upstream.md#annotation-protocol). A
text longer than the window is not an error: its row is NaN and its `exceeded` is 1. Texts are scored as they are, with
or without the read-out mark: upstream's client sends one without to warm up a server.
"""

import asyncio
from typing import Any

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

import steerlm
from steerlm.errors import nearest
from steerlm.serving.admission import cancel_on_disconnect
from steerlm.serving.errors import ApiError
from steerlm.serving.health import ready
from steerlm.serving.kserve.codec import (
    HEADER_LENGTH,
    InferRequest,
    RequestedOutput,
    read_request,
    write_response,
)
from steerlm.serving.kserve.inputs import INPUTS, read_rows
from steerlm.serving.scoring import ScoringService

router = APIRouter(prefix="/v2", tags=["kserve"])

MODEL, VERSION = "reward_model", "1"
"""Upstream's name of the model; the server's own (`--name`) is accepted too."""

TRITON_DATATYPES = {"BYTES": "TYPE_STRING"}
"""Where Triton's name is not the protocol's with `TYPE_` before it."""

MODEL_PATH = "/models/{model}"
VERSION_PATH = MODEL_PATH + "/versions/{version}"


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
    """Describe the server."""
    extensions = ["binary_tensor_data", "model_configuration"]
    return {"name": "steerlm", "version": steerlm.__version__, "extensions": extensions}


@router.get("/health/live", summary="Alive: the scoring thread runs")
async def live(request: Request) -> Response:
    """Answer liveness probes."""
    return JSONResponse({}, 200 if request.app.state.service.healthy else 503)


@router.get("/health/ready", summary="Ready for new requests: alive and not draining")
async def server_ready(request: Request) -> Response:
    """Answer readiness probes."""
    return await ready(request)


@router.get(MODEL_PATH, summary="The model's inputs and outputs")
@router.get(VERSION_PATH, summary="The model's inputs and outputs")
async def metadata(request: Request, model: str, version: str | None = None) -> dict[str, Any]:
    """Describe the model's tensors."""
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


@router.get(MODEL_PATH + "/ready", summary="Ready for new requests")
@router.get(VERSION_PATH + "/ready", summary="Ready for new requests")
async def model_ready(request: Request, model: str, version: str | None = None) -> Response:
    """Answer readiness probes of the model."""
    _check(request, model, version)
    return await ready(request)


@router.get(MODEL_PATH + "/config", summary="The model's configuration in Triton's form")
@router.get(VERSION_PATH + "/config", summary="The model's configuration in Triton's form")
async def config(request: Request, model: str, version: str | None = None) -> dict[str, Any]:
    """Describe the model as Triton does."""
    service = _check(request, model, version)
    return {
        "name": model,
        "platform": "steerlm",
        "backend": "steerlm",
        "max_batch_size": service.settings.score.max_texts,
        # Texts are either `sentences` or `tokens`: no input is always required.
        "input": [
            {"name": name, "data_type": TRITON_DATATYPES.get(kind, f"TYPE_{kind}"), "dims": shape[1:], "optional": True}
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


@router.post(MODEL_PATH + "/infer", summary="Scores of a batch of texts", openapi_extra=BODY)
@router.post(VERSION_PATH + "/infer", summary="Scores of a batch of texts", openapi_extra=BODY)
async def infer(request: Request, model: str, version: str | None = None) -> Response:
    """Score a batch of texts."""
    service = _check(request, model, version)
    parsed, binary = read_request(await request.body(), request.headers.get(HEADER_LENGTH))
    outputs = _outputs(parsed)
    rows = await asyncio.to_thread(read_rows, parsed, binary, service)
    rewards, exceeded = await cancel_on_disconnect(request, _score(service, rows))
    values: dict[str, npt.NDArray[Any]] = {"rewards": rewards, "exceeded": exceeded}
    head = {"model_name": model, "model_version": VERSION} | ({} if parsed.id is None else {"id": parsed.id})
    tensors = [(output.name, values[output.name], parsed.is_binary(output)) for output in outputs]
    body, header_length = write_response(head, tensors)
    if header_length == len(body):
        return Response(body, media_type="application/json")
    return Response(body, headers={HEADER_LENGTH: str(header_length)}, media_type="application/octet-stream")


def _outputs(request: InferRequest) -> list[RequestedOutput]:
    names = ["rewards", "exceeded"]
    outputs = request.outputs or [RequestedOutput(name=name) for name in names]
    for output in outputs:
        if output.name not in names:
            raise ApiError(f"unknown output {output.name!r}{nearest(output.name, names)}")
    return outputs


async def _score(
    service: ScoringService, rows: list[list[int]]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Return (rewards [batch, attributes], exceeded [batch, 1])."""
    exceeded = np.array([[len(row) > service.window] for row in rows], dtype=np.int32).reshape(-1, 1)
    rewards = np.full((len(rows), len(service.schema.names)), np.nan, dtype=np.float32)
    fitting = np.flatnonzero(exceeded[:, 0] == 0)
    if len(fitting):
        rewards[fitting] = await service.score([rows[i] for i in fitting])
    return rewards, exceeded
