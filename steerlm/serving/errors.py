# SPDX-License-Identifier: Apache-2.0
"""Error responses: all routes have OpenAI's body, `{"error": {"message", "type", "param", "code"}}`.

Only the KServe routes (`/v2`) have that protocol's: `{"error": message}`.
"""

import json
import logging
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Send

from steerlm.errors import InputError, SteerLMError, problem
from steerlm.serving.request_record import current

logger = logging.getLogger(__name__)

ERROR_TYPES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    404: "NotFoundError",
    405: "MethodNotAllowedError",
    408: "RequestTimeoutError",
    413: "RequestTooLargeError",
    415: "UnsupportedMediaTypeError",
    429: "RateLimitError",
    503: "ServiceUnavailableError",
    504: "DeadlineExceededError",
}

RETRY_AFTER = {429: 1, 503: 5}
"""Seconds: a slot is free soon; another server has to replace one that shuts down."""


UNKNOWN: dict[int | str, dict[str, Any]] = {404: {"description": "Unknown here; the message says what there is."}}
"""`responses` of a route that answers 404 though its path has no parameter; see `document.py`."""


class ApiError(InputError):
    """A request that cannot be served.

    Attributes:
        param: The parameter at fault.
        status: The HTTP status.
        reason: Why, for metrics and log; None: what the status means (`operations.metrics.REASONS`).
        retry_after: Seconds; None: those of the status.
        detail: What whoever runs the server should know of it and clients should not, such as addresses; logged.
    """

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        status: int = 400,
        reason: str | None = None,
        retry_after: int | None = None,
        detail: str | None = None,
    ) -> None:
        super().__init__(message)
        self.param, self.status, self.reason, self.retry_after = param, status, reason, retry_after
        self.detail = detail


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


def headers_for(status: int, retry_after: int | None = None) -> dict[str, str]:
    """Return the headers of an error response.

    Args:
        status: Its status.
        retry_after: Seconds for a client to wait; None: those of the status.
    """
    headers = {"retry-after": str(retry_after or RETRY_AFTER[status])} if status in RETRY_AFTER else {}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if status == 504:
        headers["x-should-retry"] = "false"  # to OpenAI's client, which would send the same work again
    return headers


async def refuse(send: Send, path: str, error: ApiError) -> None:
    """Send the response of a middleware that refuses a request."""
    current().reason = error.reason or current().reason
    body = json.dumps(body_for(path, str(error), error.status, error.param)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    more = headers_for(error.status, error.retry_after)
    headers += [(name.encode(), value.encode()) for name, value in more.items()]
    if error.status == 503:
        headers.append((b"connection", b"close"))  # the next request on it would be cut off
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def error_event(error: Exception) -> str:
    """Return the server-sent event of an error in the middle of a stream, whose HTTP status is already sent."""
    status = error.status if isinstance(error, ApiError) else 400 if isinstance(error, InputError) else 500
    if isinstance(error, ApiError) and error.detail:
        logger.error("%s", error.detail)
    current().reason = current().reason or ("bad_request" if status == 400 else "failure")
    return f"data: {json.dumps(error_body(str(error), status))}\n\n"


def is_json(content_type: str | None) -> bool:
    """Return whether a content type is one of JSON.

    >>> is_json("application/json; charset=utf-8"), is_json("text/plain"), is_json(None)
    (True, False, False)
    """
    kind = (content_type or "").partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def validation_problem(error: Any) -> tuple[str, str | None]:
    """Return the message of a pydantic error in a JSON body, and its place, such as `messages[0].content`."""
    keys = [key for key in error["loc"] if key != "body"]
    if error["type"] == "json_invalid":
        return f"the body is not JSON: {error.get('ctx', {}).get('error', error['msg'])}", None
    if not keys:
        empty = error["type"] == "missing" or error["input"] in (None, b"", "")
        return "the body is empty; a JSON object was expected" if empty else f"the body: {problem(error)}", None
    where = _place(keys)
    if error["type"] == "extra_forbidden":
        section = _place(keys[:-1])
        return f"unknown field {keys[-1]!r}{f' in {section}' if section else ''}; remove it", where
    return f"{where} {problem(error)}" if error["type"] == "missing" else f"{where}: {problem(error)}", where


def _place(keys: Sequence[str | int]) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).removeprefix(".")


def routes_of(app: FastAPI) -> str:
    """Return a sentence about the routes of an app, which has those of one of the two servers."""
    paths = app.openapi()["paths"]
    routes = ", ".join(
        f"{'|'.join(methods).upper()} {path}" for path, methods in paths.items() if "{version}" not in path
    )
    other = "answers with dials: steerlm serve generate" if "/v1/score" in paths else "scores: steerlm serve reward"
    return f"this server has {routes} (the other server {other})"


def install(app: FastAPI) -> None:
    """Give every failure of `app` the common body."""

    def respond(request: Request, message: str, status: int, param: str | None = None) -> ErrorResponse:
        return ErrorResponse(body_for(request.url.path, message, status, param), status, headers_for(status))

    @app.exception_handler(ApiError)
    async def _api(request: Request, error: ApiError) -> ErrorResponse:
        current().reason = error.reason or current().reason
        if error.detail:
            logger.error("%s %s: %s", request.method, request.url.path, error.detail)
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
        if not is_json(request.headers.get("content-type")):
            given = request.headers.get("content-type")
            sent = f"the content type {given!r}" if given else "no content type"
            remedy = "send JSON, with the header content-type: application/json"
            return respond(request, f"the body has {sent}; {remedy}", 415)
        message, where = validation_problem(error.errors()[0])
        return respond(request, message, 400, where)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> ErrorResponse:
        headers, path = dict(error.headers or {}), request.url.path
        message = str(error.detail)
        if error.status_code == 404:
            message = f"no route {path}; {routes_of(app)}"
        elif error.status_code == 405:
            message = f"{request.method} is not a method of {path}; it takes {headers.get('Allow')}"
        return ErrorResponse(body_for(path, message, error.status_code), error.status_code, headers)

    @app.exception_handler(ClientDisconnect)
    async def _disconnected(request: Request, error: ClientDisconnect) -> Response:
        # Nobody reads this; proxies log 499.
        return Response(status_code=499)

    @app.exception_handler(Exception)
    async def _unexpected(request: Request, error: Exception) -> ErrorResponse:
        # Outside of the middleware that knows the request's id.
        request_id = request.state.record.id
        logger.exception("%s %s failed", request.method, request.url.path, extra={"request_id": request_id})
        response = respond(request, f"unexpected {type(error).__name__}; see the server's log", 500)
        response.headers["x-request-id"] = request_id
        return response
