# SPDX-License-Identifier: Apache-2.0
"""Several servers of one model, asked over HTTP: requests are spread over them, a server that is away is waited for.

Knows retries, not what is asked: `HttpScorer` and `HttpAnswerer` are the routes. A server that is busy, restarting or
unreachable rests for a while, the others go on; before its first request, and whenever it has been away, it is asked
what it serves (`check`), so that another model in its place is noticed.
"""

import asyncio
import contextlib
import importlib.util
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from steerlm.errors import InputError, SteerLMError
from steerlm.retry import Backoff

if TYPE_CHECKING:
    import httpx

TRY_AGAIN = (429, 502, 503, 504)
BACKOFF = Backoff(first=0.25, longest=30.0, jitter=0.5)

Result = TypeVar("Result")
Item = TypeVar("Item")
log = logging.getLogger(__name__)


@dataclass(slots=True)
class Server:
    """`rests_until`: when it is asked again (monotonic clock); `failures`: in a row; `running`: requests."""

    url: str
    rests_until: float = 0.0
    failures: int = 0
    running: int = 0
    known: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server replied, and which it was."""

    url: str
    response: "httpx.Response"


class Servers:
    """`path`: the route that says what a server serves; `check(url, body)` raises if it is not what is wanted.

    `requests`: at a time, to all of them together. `timeout`: seconds a request may take; `patience`: seconds that a
    request waits while no server answers.
    """

    def __init__(
        self,
        urls: Sequence[str],
        path: str,
        check: Callable[[str, dict[str, Any]], None],
        *,
        requests: int = 8,
        timeout: float = 300.0,
        patience: float = 300.0,
    ) -> None:
        if not urls:
            raise InputError("no server is named; give at least one URL")
        self.servers = [Server(url.rstrip("/")) for url in dict.fromkeys(urls)]
        self.patience = patience
        self._path, self._check = path, check
        self._requests, self._timeout = requests, timeout
        self._own = threading.local()
        """`client`: of the run in this thread; callers in several threads do not share connections."""

    @property
    def names(self) -> str:
        return ", ".join(server.url for server in self.servers)

    def greet(self) -> None:
        """Ask every server what it serves, and wait until one has said so. Raises what `check` raises, and
        `SteerLMError` if none answers within `patience`."""
        self.run(self._greet)

    def map(self, function: Callable[[Item], Coroutine[Any, Any, Result]], items: Sequence[Item]) -> list[Result]:
        """`function` of every item, in order, `requests` of them at a time; the first error ends all."""
        return self.run(self._map, function, items)

    def run(self, function: Callable[..., Coroutine[Any, Any, Result]], *arguments: Any) -> Result:
        """Run to the end in a thread of its own: a notebook's event loop is taken, and a signal's exception, raised in
        the main thread, cancels what runs instead of breaking an event loop anywhere in its course."""
        if importlib.util.find_spec("httpx") is None:
            raise InputError("asking a server needs httpx: pip install 'steerlm[serve]'")
        done: Future[Result] = Future()
        started: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []

        async def main() -> Result:
            task = asyncio.current_task()
            assert task is not None
            started.append((task.get_loop(), task))
            async with self._connected():
                return await function(*arguments)

        def work() -> None:
            try:
                done.set_result(asyncio.run(main()))
            except BaseException as error:
                done.set_exception(error)

        thread = threading.Thread(target=work, name="http-servers", daemon=True)
        thread.start()
        try:
            return done.result()
        except BaseException:
            for loop, task in started:
                with contextlib.suppress(RuntimeError):  # it has ended by itself
                    loop.call_soon_threadsafe(task.cancel)
            thread.join(1.0)
            raise

    async def send(self, method: str, path: str, body: Any) -> Answer:
        """One request to the server with the fewest, repeated with growing pauses while they are busy or away.

        Inside `run` or `map`. Raises `SteerLMError` if none answers within `patience`.
        """
        give_up = time.monotonic() + self.patience
        while True:
            now = time.monotonic()
            server = min(self.servers, key=lambda s: (max(s.rests_until, now), s.running))
            began, trouble, pause = now, "", 0.0
            server.running += 1
            try:
                if server.rests_until > now:
                    await asyncio.sleep(server.rests_until - now)
                    began = time.monotonic()
                if not server.known and path != self._path:
                    self._meet(server, await self._ask(server, "GET", self._path, None))
                response = await self._ask(server, method, path, body)
                server.failures, server.rests_until = 0, 0.0
                return Answer(server.url, response)
            except _Away as away:
                trouble, pause = away.trouble, away.pause
            finally:
                server.running -= 1
            if began >= server.rests_until:  # one failure for all requests that were under way when it went
                server.failures += 1
                delay = BACKOFF.pause(server.failures)
                server.rests_until = time.monotonic() + max(delay, pause)
                log.warning("%s%s: %s; again in %.1f s", server.url, path, trouble, max(delay, pause))
            if min(other.rests_until for other in self.servers) > give_up:
                at = f"{server.url}{path}" if len(self.servers) == 1 else f"{path} of {self.names}"
                raise SteerLMError(f"{at}: no answer within {self.patience:g} s; the last was: {trouble}")

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[None]:
        import httpx

        async with httpx.AsyncClient(
            timeout=httpx.Timeout(self._timeout, connect=10.0),
            limits=httpx.Limits(max_connections=self._requests),
            verify=any(s.url.startswith("https") for s in self.servers),  # reading the certificates takes 20 ms
        ) as client:
            self._own.client = client
            yield

    async def _greet(self) -> None:
        answer = await self.send("GET", self._path, None)
        first = next(server for server in self.servers if server.url == answer.url)
        self._meet(first, answer.response)

        async def greet(server: Server) -> None:
            try:
                self._meet(server, await self._ask(server, "GET", self._path, None))
            except _Away as away:
                log.warning("%s does not answer (%s); the others begin", server.url, away.trouble)

        await asyncio.gather(*(greet(server) for server in self.servers if server is not first))

    async def _map(
        self, function: Callable[[Item], Coroutine[Any, Any, Result]], items: Sequence[Item]
    ) -> list[Result]:
        turns = asyncio.Semaphore(self._requests)

        async def one(item: Item) -> Result:
            async with turns:
                return await function(item)

        tasks = [asyncio.ensure_future(one(item)) for item in items]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    async def _ask(self, server: Server, method: str, path: str, body: Any) -> "httpx.Response":
        import httpx

        try:
            response: httpx.Response = await self._own.client.request(method, f"{server.url}{path}", json=body)
        except httpx.UnsupportedProtocol as error:
            raise InputError(f"{server.url}: not the address of a server ({error})") from None
        except httpx.TransportError as error:
            server.known = False  # what comes back may be another
            raise _Away(f"{type(error).__name__} {error}".strip()) from None
        if response.status_code in TRY_AGAIN:
            raise _Away(f"HTTP {response.status_code}: {reason(response)}", _retry_after(response))
        return response

    def _meet(self, server: Server, response: "httpx.Response") -> None:
        self._check(server.url, read_json(server.url, self._path, response))
        server.known = True


class _Away(Exception):  # noqa: N818 (it may come back)
    """A server that cannot answer at the moment. `pause`: seconds it asks to wait."""

    def __init__(self, trouble: str, pause: float = 0.0) -> None:
        super().__init__(trouble)
        self.trouble, self.pause = trouble, pause


def read_json(url: str, path: str, response: "httpx.Response") -> dict[str, Any]:
    """The object a server answered. Raises `InputError` for a refused request, `SteerLMError` for a failure of it."""
    if response.status_code >= 400:
        kind = SteerLMError if response.status_code >= 500 else InputError
        raise kind(f"{url}{path}: HTTP {response.status_code}: {reason(response)}")
    try:
        body = response.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise InputError(f"{url}{path}: not a SteerLM server: the answer is not a JSON object")
    return body


def reason(response: "httpx.Response") -> str:
    """The message of an error body in OpenAI's or FastAPI's shape, else the start of the text."""
    try:
        body = response.json()
        error = body.get("error", body.get("detail", body))
        return str(error["message"] if isinstance(error, dict) and "message" in error else error)[:300]
    except (ValueError, AttributeError):
        return response.text[:300]


def _retry_after(response: "httpx.Response") -> float:
    """Seconds the server asks to wait; 0 where it names none, or a date."""
    try:
        return min(BACKOFF.longest, max(0.0, float(response.headers.get("retry-after", 0))))
    except ValueError:
        return 0.0
