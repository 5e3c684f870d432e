# SPDX-License-Identifier: Apache-2.0
"""HTTP requests to one or several servers of the same model, with load balancing and retries.

`HttpScorer` and `HttpChat` build the requests. A server that is busy, restarting or unreachable is left alone for a
growing delay while the others work. Before its first request, and after it was unreachable, its model is checked, so
that another model at the same address is noticed.
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

from steerlm.client import KeyRefusedError, authorization
from steerlm.errors import InputError, SteerLMError
from steerlm.retry import Backoff

if TYPE_CHECKING:
    import httpx

RETRIED_STATUSES = (429, 502, 503, 504)
BACKOFF = Backoff(first=0.25, longest=30.0, jitter=0.5)

Result = TypeVar("Result")
Item = TypeVar("Item")
log = logging.getLogger(__name__)


@dataclass(slots=True)
class PooledServer:
    """The state of one server.

    Attributes:
        url: Its address.
        retry_at: When requests may be sent to it again, on the monotonic clock.
        failures: Consecutive failures.
        running: Requests in flight.
        checked: Whether its model was checked since it was last unreachable.
    """

    url: str
    retry_at: float = 0.0
    failures: int = 0
    running: int = 0
    checked: bool = False


@dataclass(frozen=True, slots=True)
class ServerReply:
    """A response, and the server that it came from."""

    url: str
    response: "httpx.Response"


class ServerPool:
    """Servers of the same model.

    Args:
        urls: Their addresses.
        path: The route that describes the served model.
        check: Called with a server's URL and the JSON from `path`; raises if the model is not the expected one.
        requests: Concurrent requests, to all servers together.
        timeout: Seconds that a request may take.
        patience: Seconds to wait while no server answers.
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
            raise InputError("no server: give at least one URL")
        self.servers = [PooledServer(url.rstrip("/")) for url in dict.fromkeys(urls)]
        self.patience = patience
        self._path, self._check = path, check
        self._requests, self._timeout = requests, timeout
        self._own = threading.local()
        """`client`: the HTTP client of the run in this thread; threads do not share connections."""

    @property
    def names(self) -> str:
        """The servers' URLs, separated by commas, for messages."""
        return ", ".join(server.url for server in self.servers)

    def connect(self) -> None:
        """Check the model of every server that is reachable; wait until one is.

        Raises:
            SteerLMError: No server answers within `patience`.
            Exception: What `check` raises.
        """
        self.run(self._check_all)

    def map(self, function: Callable[[Item], Coroutine[Any, Any, Result]], items: Sequence[Item]) -> list[Result]:
        """Apply `function` to every item, `requests` at a time. The first error cancels the rest."""
        return self.run(self._map, function, items)

    def run(self, function: Callable[..., Coroutine[Any, Any, Result]], *arguments: Any) -> Result:
        """Run a coroutine function in its own thread and return its result.

        The calling thread may have a running event loop (a notebook). An exception that a signal handler raises in the
        main thread cancels the task, where it would break an event loop of that thread.
        """
        if importlib.util.find_spec("httpx") is None:
            raise InputError("requests to a server need httpx: pip install 'steerlm[serve]'")
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
                with contextlib.suppress(RuntimeError):  # it has already ended
                    loop.call_soon_threadsafe(task.cancel)
            thread.join(1.0)
            raise

    async def send(self, method: str, path: str, body: Any) -> ServerReply:
        """Send one request to the least loaded server; retry with growing delays while servers are unavailable.

        To be called inside `run` or `map`.

        Raises:
            SteerLMError: No server answers within `patience`.
        """
        give_up = time.monotonic() + self.patience
        while True:
            now = time.monotonic()
            server = min(self.servers, key=lambda s: (max(s.retry_at, now), s.running))
            start, problem, pause = now, "", 0.0
            server.running += 1
            try:
                if server.retry_at > now:
                    await asyncio.sleep(server.retry_at - now)
                    start = time.monotonic()
                if not server.checked and path != self._path:
                    self._check_model(server, await self._request(server, "GET", self._path, None))
                response = await self._request(server, method, path, body)
                server.failures, server.retry_at = 0, 0.0
                return ServerReply(server.url, response)
            except _UnavailableError as error:
                problem, pause = error.problem, error.pause
            finally:
                server.running -= 1
            if start >= server.retry_at:  # requests that were in flight together count as one failure
                server.failures += 1
                delay = BACKOFF.pause(server.failures)
                server.retry_at = time.monotonic() + max(delay, pause)
                left = max(0.0, give_up - time.monotonic())
                words = "%s%s: %s; retrying in %.1f s, for %.0f s more at most"
                log.warning(words, server.url, path, problem, max(delay, pause), left)
            if min(other.retry_at for other in self.servers) > give_up:
                at = f"{server.url}{path}" if len(self.servers) == 1 else f"{path} of {self.names}"
                raise SteerLMError(f"{at}: no answer within {self.patience:g} s; the last was: {problem}")

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[None]:
        import httpx

        async with httpx.AsyncClient(
            headers=authorization(),
            timeout=httpx.Timeout(self._timeout, connect=10.0),
            limits=httpx.Limits(max_connections=self._requests),
            verify=any(s.url.startswith("https") for s in self.servers),  # reading the certificates takes 20 ms
        ) as client:
            self._own.client = client
            yield

    async def _check_all(self) -> None:
        answer = await self.send("GET", self._path, None)
        first = next(server for server in self.servers if server.url == answer.url)
        self._check_model(first, answer.response)

        async def check(server: PooledServer) -> None:
            try:
                self._check_model(server, await self._request(server, "GET", self._path, None))
            except _UnavailableError as error:
                log.warning("%s does not answer (%s); starting with the others", server.url, error.problem)

        await asyncio.gather(*(check(server) for server in self.servers if server is not first))

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

    async def _request(self, server: PooledServer, method: str, path: str, body: Any) -> "httpx.Response":
        import httpx

        try:
            response: httpx.Response = await self._own.client.request(method, f"{server.url}{path}", json=body)
        except httpx.UnsupportedProtocol as error:
            raise InputError(f"{server.url}: not the address of a server ({error})") from None
        except httpx.TransportError as error:
            server.checked = False  # it may come back with another model
            raise _UnavailableError(f"{type(error).__name__} {error}".strip()) from None
        if response.status_code in RETRIED_STATUSES:
            raise _UnavailableError(f"HTTP {response.status_code}: {error_message(response)}", _retry_after(response))
        return response

    def _check_model(self, server: PooledServer, response: "httpx.Response") -> None:
        self._check(server.url, read_json(server.url, self._path, response))
        server.checked = True


class _UnavailableError(Exception):
    """A server cannot answer at the moment. `pause`: seconds from its retry-after header."""

    def __init__(self, problem: str, pause: float = 0.0) -> None:
        super().__init__(problem)
        self.problem, self.pause = problem, pause


def read_json(url: str, path: str, response: "httpx.Response") -> dict[str, Any]:
    """Return the JSON object of a response. Raises `InputError` for a status 4xx, `SteerLMError` for 5xx."""
    if response.status_code == 401:
        raise KeyRefusedError(url)
    if response.status_code >= 400:
        kind = SteerLMError if response.status_code >= 500 else InputError
        raise kind(f"{url}{path}: HTTP {response.status_code}: {error_message(response)}")
    try:
        body = response.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise InputError(f"{url}{path}: not a SteerLM server: the answer is not a JSON object")
    return body


def error_message(response: "httpx.Response") -> str:
    """Return the message of an error body as OpenAI or FastAPI write it, else the start of the text."""
    try:
        body = response.json()
        error = body.get("error", body.get("detail", body))
        return str(error["message"] if isinstance(error, dict) and "message" in error else error)[:300]
    except (ValueError, AttributeError):
        return response.text[:300]


def _retry_after(response: "httpx.Response") -> float:
    """Return the seconds of the retry-after header; 0 if there is none or it is a date."""
    try:
        return min(BACKOFF.longest, max(0.0, float(response.headers.get("retry-after", 0))))
    except ValueError:
        return 0.0
