# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI document: FastAPI's, with the errors that this server sends in place of FastAPI's own 422.

Most errors come from middleware, which FastAPI does not know: which route can have which is told here. What only some
routes send, such as 404 for an unknown model, they declare themselves (`responses`).
"""

from typing import Any

from fastapi import FastAPI

from steerlm.serving.config import ServeSettings
from steerlm.serving.errors import UNKNOWN, body_for
from steerlm.serving.health import HEALTH_PATHS
from steerlm.serving.operations.authentication import METRICS

MEANINGS = {
    400: "The request is not valid; the message says what is wrong and `param` where.",
    401: "No valid API key.",
    404: UNKNOWN[404]["description"],
    408: "The request did not arrive in time.",
    413: "Too large, or a text is too long.",
    415: "The body is not JSON, or compressed in a way that is not supported.",
    429: "Too much at a time, or a limit of the API key; `Retry-After` says when to try again.",
    500: "The server failed.",
    502: "The server behind this one failed.",
    503: "Not now: starting, draining, or the server behind this one is away.",
    504: "Not answered within the server's limit.",
}

_TEXT = {"type": "string"}
SCHEMAS: dict[str, Any] = {
    "Error": {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["message", "type", "param", "code"],
                "properties": {
                    "message": _TEXT,
                    "type": _TEXT,
                    "param": {"type": ["string", "null"]},
                    "code": {"type": "integer"},
                },
            }
        },
    },
    "KServeError": {"type": "object", "required": ["error"], "properties": {"error": _TEXT}},
}
FASTAPIS = ("HTTPValidationError", "ValidationError")


class DocumentedApp(FastAPI):
    """An app whose document has this server's errors. Its `state.settings` are set before the document is asked for."""

    def openapi(self) -> dict[str, Any]:
        """Return the document, which is made once."""
        if self.openapi_schema is None:
            document = super().openapi()
            for path, operations in document["paths"].items():
                for method, operation in operations.items():
                    _document(operation["responses"], method, path, self.state.settings)
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            for name in FASTAPIS:
                schemas.pop(name, None)
            schemas.update(SCHEMAS)
        assert self.openapi_schema is not None
        return self.openapi_schema


def _document(responses: dict[str, Any], method: str, path: str, settings: ServeSettings) -> None:
    """Replace FastAPI's 422 among the responses of an operation by the errors that it can have."""
    responses.pop("422", None)
    name = "Error" if isinstance(body_for(path, "", 500)["error"], dict) else "KServeError"
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}
    for status in sorted(_statuses(method, path, settings) | {int(one) for one in responses if int(one) >= 400}):
        found = responses.pop(str(status), {})
        responses[str(status)] = {"description": MEANINGS[status], "content": content} | found


def _statuses(method: str, path: str, settings: ServeSettings) -> set[int]:
    if path in HEALTH_PATHS:
        return {500, 503}
    found = {500} if path == METRICS else {500, 503}
    if settings.api_keys and not (path == METRICS and settings.open_metrics):
        found.add(401)
    if "{" in path:
        found.add(404)
    if method in ("post", "put"):
        found |= {400, 408, 413, 415, 429}
        if settings.request_seconds:
            found.add(504)
        if settings.upstream.url or settings.reward_server.url:
            found.add(502)
    return found
