# SPDX-License-Identifier: Apache-2.0
"""HTTP to another server: pooled connections, server-sent events, and what its failures mean to our clients.

Known here: JSON in and out, and the form of OpenAI's errors. Not known: which server it is and what the bodies mean.
Addresses are for whoever runs this server: messages to its clients have none.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp

from steerlm.errors import InputError, SteerLMError
from steerlm.serving.errors import ApiError

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
SILENT_SECONDS = 600.0
"""A server that sends no byte of a response for this long is taken for gone."""
CHECK_SECONDS = 2.0
"""Between two looks at the server's health."""
WAIT_SECONDS = 1.0
"""Between two attempts to reach a server that is starting."""
MAX_LINE = 1 << 22
"""Bytes of one event; an event has a few tokens with their log-probabilities."""

PASSED_ON = (400, 413, 422, 429, 503)
"""Statuses that mean to our client what they mean to us."""


class UpstreamError(ApiError):
    """A failure of the server behind this one.

    Attributes:
        upstream_status: The status it answered with; None if it did not answer.
    """

    def __init__(
        self, message: str, *, status: int, upstream_status: int | None = None, detail: str | None = None
    ) -> None:
        super().__init__(message, status=status, reason="upstream", detail=detail)
        self.upstream_status = upstream_status

    @property
    def whole(self) -> str:
        """What is known of it, with addresses."""
        return self.detail or str(self)


class UpstreamClient:
    """A client of one server.

    Attributes:
        url: Its address, without `/v1`.
        available: Whether it answered last time.
    """

    def __init__(self, url: str, key: str | None = None, *, connections: int = 0, called: str = "the upstream") -> None:
        """Describe the server; nothing is sent before `open`.

        Args:
            url: Its address, with or without `/v1`.
            key: API key that it asks for.
            connections: Connections at most; 0 for any number.
            called: What clients of this server know it as.
        """
        self.url = url.rstrip("/").removesuffix("/v1").rstrip("/")
        self.available = False
        self._key, self._connections, self._called = key, connections, called
        self._session: aiohttp.ClientSession | None = None
        self._watch: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Make the pool of connections; it belongs to the running event loop."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections, keepalive_timeout=4.0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENT_SECONDS),
            headers={"authorization": f"Bearer {self._key}"} if self._key else None,
            read_bufsize=MAX_LINE,
            trust_env=False,  # a proxy of the environment is for the internet
        )

    async def close(self) -> None:
        """Close the connections."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def wait(self, path: str, seconds: float) -> dict[str, Any]:
        """Return the JSON at `path` as soon as the server answers: it may still be loading its model.

        Raises:
            SteerLMError: It does not answer within `seconds`, or refuses the key.
        """
        loop = asyncio.get_running_loop()
        deadline, said = loop.time() + seconds, False
        while True:
            try:
                return await self.get(path)
            except UpstreamError as error:
                if error.upstream_status in (401, 403):
                    raise SteerLMError(f"{error.whole}; its key is read from --upstream-key-file") from None
                if error.upstream_status == 404:
                    raise SteerLMError(f"{error.whole}; is it the address of an OpenAI-compatible server?") from None
                if loop.time() >= deadline:
                    raise SteerLMError(f"{error.whole}; waited {seconds:g} s for it (--upstream-seconds)") from None
                if not said:
                    logger.info("waiting up to %g s: %s", seconds, error.whole)
                    said = True
            await asyncio.sleep(WAIT_SECONDS)

    def watch(self, path: str, recheck: Callable[[], Awaitable[None]]) -> None:
        """Keep `available` up to date from now on.

        Args:
            path: Route of the server's health; a server without it is healthy if it answers at all.
            recheck: Called when the server is back; raises `SteerLMError` if it serves something else now.
        """
        self.available = True
        self._watch = asyncio.create_task(self._keep_watch(path, recheck))

    async def _keep_watch(self, path: str, recheck: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            try:
                async with self._opened().get(self.url + path, timeout=aiohttp.ClientTimeout(10)) as reply:
                    answers = reply.status < 500
                if answers and not self.available:
                    await recheck()
                    logger.info("%s answers again", self.url)
            except (aiohttp.ClientError, TimeoutError):
                answers = False
            except SteerLMError as error:
                logger.error("%s", error)
                answers = False
            if self.available and not answers:
                logger.warning("%s does not answer: not ready until it does", self.url)
            self.available = answers

    async def get(self, path: str) -> dict[str, Any]:
        """Return the JSON at `path`.

        Raises:
            UpstreamError: The server cannot be reached or refuses the request.
        """
        return await self._json("GET", path, None)

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Send JSON and return the JSON of the response; canceling this cancels the request.

        Raises:
            UpstreamError: See `get`.
        """
        return await self._json("POST", path, body)

    async def lines(self, path: str) -> AsyncGenerator[bytes, None]:
        """Yield the lines of the text at `path`.

        Raises:
            UpstreamError: See `get`.
            ValueError: A line is longer than `MAX_LINE`.
        """
        async with self._request("GET", path, None) as reply:
            async for line in reply.content:
                yield line

    async def events(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Send JSON and yield the server-sent events of the response; closing the generator cancels the request.

        Raises:
            UpstreamError: See `get`; before the first event.
            SteerLMError: The server reports a failure in the stream, or ends it early.
        """
        async with self._request("POST", path, body) as reply:
            async for line in reply.content:
                if not line.startswith(b"data:"):
                    continue  # a blank line between events, or a comment that keeps the connection alive
                data = line[5:].strip()
                if data == b"[DONE]":
                    return
                event = self._parsed(data, path)
                if "error" in event:
                    raise SteerLMError(f"{self._called} failed: {_message(event, 'unknown error')}")
                yield event
            raise SteerLMError(f"{self._called} ended its stream before the answer was complete")

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            raise UpstreamError(f"the connections to {self._called} are closed", status=503)
        return self._session

    async def _json(self, method: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        async with self._request(method, path, body) as reply:
            return self._parsed(await reply.read(), path)

    @contextlib.asynccontextmanager
    async def _request(
        self, method: str, path: str, body: Mapping[str, Any] | None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        data = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        headers = {"content-type": "application/json"}
        try:
            async with self._opened().request(method, self.url + path, data=data, headers=headers) as reply:
                if reply.status != 200:
                    raise await self._refusal(reply, path)
                yield reply
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            reason = str(error) or type(error).__name__
            detail = f"{self._called} {self.url} does not answer: {reason}"
            raise UpstreamError(f"{self._called} does not answer", status=503, detail=detail) from None

    async def _refusal(self, reply: aiohttp.ClientResponse, path: str) -> UpstreamError:
        text = (await reply.read())[:4000].decode(errors="replace")
        try:
            message = _message(json.loads(text), text)
        except ValueError:
            message = text.strip() or str(reply.reason)
        status = reply.status
        if status in PASSED_ON:
            passed = 400 if status == 422 else status
            return UpstreamError(f"{self._called} refuses this: {message}", status=passed, upstream_status=status)
        # What is wrong between this server and the other is not the client's fault.
        told, detail = f"{self._called} answers {status}: {message}", f"{self.url}{path} answers {status}: {message}"
        return UpstreamError(told, status=502, upstream_status=status, detail=detail)

    def _parsed(self, data: bytes, path: str) -> dict[str, Any]:
        try:
            parsed = json.loads(data)
        except ValueError:
            parsed = None
        if not isinstance(parsed, dict):
            told, fault = f"{self._called} does not answer with a JSON object", f"{self.url}{path}: not a JSON object"
            raise UpstreamError(told, status=502, detail=fault)
        return parsed


def read_key(path: Path | None) -> str | None:
    """Return the API key in a file, without the line break at its end; None without a file.

    Raises:
        InputError: It cannot be read, or is empty.
    """
    if path is None:
        return None
    try:
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: the key cannot be read ({error})") from None
    if not key or not key.isprintable():
        raise InputError(f"{path}: one line with the key was expected")
    return key


def _message(body: Any, otherwise: str) -> str:
    """Return the message in an error body: OpenAI's, FastAPI's or a plain text."""
    error = body.get("error", body.get("detail")) if isinstance(body, dict) else None
    if isinstance(error, dict):
        error = error.get("message")
    return str(error) if error else otherwise
