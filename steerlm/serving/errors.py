# SPDX-License-Identifier: Apache-2.0
"""Error responses: all routes have OpenAI's body, `{"error": {"message", "type", "param", "code"}}`.

Only the KServe routes (`/v2`) have that protocol's: `{"error": message}`.
"""

import json
import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from steerlm.errors import InputError, SteerLMError

logger = logging.getLogger(__name__)

ERROR_TYPES = {
    400: "BadRequestError",
    404: "NotFoundError",
    405: "MethodNotAllowedError",
    408: "RequestTimeoutError",
    413: "RequestTooLargeError",
    415: "UnsupportedMediaTypeError",
    429: "RateLimitError",
    503: "ServiceUnavailableError",
}

RETRY_AFTER = {429: 1, 503: 5}
"""Seconds: a slot is free soon; another server has to replace one that shuts down."""


class ApiError(InputError):
    """A request that cannot be served.

    Attributes:
        param: The parameter at fault.
        status: The HTTP status.
    """

    def __init__(self, message: str, *, param: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.param, self.status = param, status


class ErrorResponse(JSONResponse):
    """JSON in ASCII: a message may quote what the client sent, which need not be valid Unicode."""

    def render(self, content: Any) -> bytes:
        """Serialize the body."""
        return json.dumps(content).encode()


def error_body(message: str, status: int, param: str | None = None) -> dict[str, Any]:
    """Return OpenAI's error body.

    >>> error_body("no such model", 404, "model")["error"]["type"]
    'NotFoundError'
    """
    kind = ERROR_TYPES.get(status, "BadRequestError" if status < 500 else "InternalServerError")
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}


def body_for(path: str, message: str, status: int, param: str | None = None) -> dict[str, Any]:
    """Return the error body in the protocol of a route."""
    return {"error": message} if path == "/v2" or path.startswith("/v2/") else error_body(message, status, param)


def headers_for(status: int) -> dict[str, str]:
    """Return the headers of an error response."""
    return {"retry-after": str(RETRY_AFTER[status])} if status in RETRY_AFTER else {}


def error_event(error: Exception) -> str:
    """Return the server-sent event of an error in the middle of a stream, whose HTTP status is already sent."""
    status = 400 if isinstance(error, InputError) else 500
    return f"data: {json.dumps(error_body(str(error), status))}\n\n"


def install(app: FastAPI) -> None:
    """Give every failure of `app` the common body."""

    def respond(request: Request, message: str, status: int, param: str | None = None) -> ErrorResponse:
        return ErrorResponse(body_for(request.url.path, message, status, param), status, headers_for(status))

    @app.exception_handler(ApiError)
    async def _api(request: Request, error: ApiError) -> ErrorResponse:
        return respond(request, str(error), error.status, error.param)

    @app.exception_handler(InputError)
    async def _input(request: Request, error: InputError) -> ErrorResponse:
        return respond(request, str(error), 400)

    @app.exception_handler(SteerLMError)
    async def _failed(request: Request, error: SteerLMError) -> ErrorResponse:
        logger.error("%s %s: %s", request.method, request.url.path, error)
        return respond(request, str(error), 500)

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> ErrorResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        message = first["msg"].removeprefix("Value error, ")
        return respond(request, f"{where}: {message}" if where else message, 400, where or None)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> ErrorResponse:
        body = body_for(request.url.path, str(error.detail), error.status_code)
        return ErrorResponse(body, error.status_code, dict(error.headers or {}))

    @app.exception_handler(ClientDisconnect)
    async def _disconnected(request: Request, error: ClientDisconnect) -> Response:
        # Nobody reads this; proxies log 499.
        return Response(status_code=499)

    @app.exception_handler(Exception)
    async def _unexpected(request: Request, error: Exception) -> ErrorResponse:
        logger.exception("%s %s failed", request.method, request.url.path)
        return respond(request, f"unexpected {type(error).__name__}; see the server's log", 500)
