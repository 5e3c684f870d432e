"""A reward model behind a URL: batches of texts go to a server's JSON route, several requests at a time.

The wire: `GET /v1/model` tells the attributes and the window; `POST /v1/score` takes `{"texts"}` and answers
`{"attributes", "scores", "model"}`. A server that is busy, restarting or unreachable for a while is waited for.
"""

import asyncio
import contextlib
import importlib.util
import itertools
import json
import logging
import random
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from steerlm.attributes import AttributeSchema
from steerlm.errors import InputError, ModelError, SteerLMError
from steerlm.inference.config import OverLong

if TYPE_CHECKING:
    import httpx

TRY_AGAIN = (429, 502, 503, 504)
TOO_LONG = 413
FIRST_DELAY, LONGEST_DELAY = 0.25, 30.0

Scores = npt.NDArray[np.float32]
Result = TypeVar("Result")
log = logging.getLogger(__name__)


class HttpScorer:
    """A `Scorer` over HTTP. `timeout`: seconds a request may take; `patience`: seconds without any answer to give up.

    The server refuses an over-long text with 413; under `skip` its request is split until the text is alone. Cutting
    it (`keep_end`) needs the tokenizer, which only the server has.
    """

    def __init__(
        self,
        host: str = "localhost",
        port: int = 1424,
        *,
        batch_texts: int = 32,
        requests: int = 8,
        timeout: float = 300.0,
        patience: float = 300.0,
    ) -> None:
        self.url = (host if "://" in host else f"http://{host}:{port}").rstrip("/")
        self._batch_texts, self._requests = batch_texts, requests
        self._timeout, self._patience = timeout, patience
        model = self._run(self._ask_model)
        try:
            if model["kind"] != "reward":
                raise ModelError(f"{self.url} serves a {model['kind']} model; a reward model was expected")
            self.schema = AttributeSchema.model_validate(model["attributes"])
            self.window = int(model["window"])
        except (KeyError, TypeError, ValueError, ValidationError):
            raise ModelError(f"{self.url}/v1/model: not the answer of a SteerLM reward server: {model!r}") from None
        # The server's digest is that of the model in process: a pass begun with the one may go on with the other.
        self.identity = model.get("identity") or json.dumps(model, sort_keys=True)

    def score(self, texts: Sequence[str], over_long: OverLong = "error") -> Scores:
        """See `Scorer.score`. Raises `SteerLMError` when the server stays away longer than `patience`."""
        if over_long == "keep_end":
            raise InputError("over-long texts cannot be cut over HTTP: choose error or skip, or annotate with --model")
        return self._run(self._score_all, list(texts), over_long)

    def _run(self, function: Callable[..., Coroutine[Any, Any, Result]], *arguments: Any) -> Result:
        """Run to the end in a thread of its own: a notebook's event loop is taken, and a signal's exception, raised in
        the main thread, cancels what runs instead of breaking an event loop anywhere in its course."""
        if importlib.util.find_spec("httpx") is None:
            raise InputError("scoring over HTTP needs httpx: pip install 'steerlm[serve]'")
        done: Future[Result] = Future()
        started: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []

        async def main() -> Result:
            task = asyncio.current_task()
            assert task is not None
            started.append((task.get_loop(), task))
            return await function(*arguments)

        def work() -> None:
            try:
                done.set_result(asyncio.run(main()))
            except BaseException as error:
                done.set_exception(error)

        thread = threading.Thread(target=work, name="http-scorer", daemon=True)
        thread.start()
        try:
            return done.result()
        except BaseException:
            for loop, task in started:
                with contextlib.suppress(RuntimeError):  # it has ended by itself
                    loop.call_soon_threadsafe(task.cancel)
            thread.join(1.0)
            raise

    def _client(self) -> "httpx.AsyncClient":
        import httpx

        return httpx.AsyncClient(
            base_url=self.url,
            timeout=httpx.Timeout(self._timeout, connect=10.0),
            limits=httpx.Limits(max_connections=self._requests),
            verify=self.url.startswith("https"),  # reading the system's certificates takes 20 ms
        )

    async def _ask_model(self) -> dict[str, Any]:
        async with self._client() as client:
            response = await self._send(client, "GET", "/v1/model", None)
            return self._json(response, "/v1/model")

    async def _score_all(self, texts: list[str], over_long: OverLong) -> Scores:
        scores = np.full((len(texts), len(self.schema.names)), np.nan, dtype=np.float32)
        starts = range(0, len(texts), self._batch_texts)
        turns = asyncio.Semaphore(self._requests)

        async def one(client: "httpx.AsyncClient", start: int) -> None:
            batch = texts[start : start + self._batch_texts]
            async with turns:
                scores[start : start + len(batch)] = await self._score_batch(client, batch, start, over_long)

        async with self._client() as client:
            tasks = [asyncio.ensure_future(one(client, start)) for start in starts]
            try:
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
        return scores

    async def _score_batch(
        self, client: "httpx.AsyncClient", texts: list[str], first: int, over_long: OverLong
    ) -> Scores:
        """Scores of one request; `first` is the number of its first text, for messages."""
        response = await self._send(client, "POST", "/v1/score", {"texts": texts})
        width = len(self.schema.names)
        if response.status_code == TOO_LONG:
            if len(texts) > 1:
                middle = len(texts) // 2
                left = await self._score_batch(client, texts[:middle], first, over_long)
                right = await self._score_batch(client, texts[middle:], first + middle, over_long)
                return np.concatenate([left, right])
            if over_long == "skip":
                return np.full((1, width), np.nan, dtype=np.float32)
            raise InputError(f"text {first} is longer than the model's window of {self.window}: {_reason(response)}")
        body = self._json(response, "/v1/score")
        if tuple(body.get("attributes") or ()) != self.schema.names:
            raise SteerLMError(f"{self.url}: the server now serves another model: attributes {body.get('attributes')}")
        try:
            scores = np.asarray(body.get("scores"), dtype=np.float32)
        except (TypeError, ValueError):
            scores = np.empty(0, dtype=np.float32)
        if scores.shape != (len(texts), width) or not np.isfinite(scores).all():
            raise SteerLMError(
                f"{self.url}: finite scores of {len(texts)} texts and {width} attributes were expected, not {scores}"
            )
        return scores

    async def _send(self, client: "httpx.AsyncClient", method: str, path: str, body: Any) -> "httpx.Response":
        """One request, repeated with growing pauses while the server is busy or away."""
        import httpx

        give_up = time.monotonic() + self._patience
        for attempt in itertools.count():
            delay = min(LONGEST_DELAY, FIRST_DELAY * 2**attempt) * random.uniform(0.5, 1.0)
            try:
                response = await client.request(method, path, json=body)
                if response.status_code not in TRY_AGAIN:
                    return response
                trouble = f"HTTP {response.status_code}: {_reason(response)}"
                delay = max(delay, _retry_after(response))
            except httpx.UnsupportedProtocol as error:
                raise InputError(f"{self.url}: not the address of a server ({error})") from None
            except httpx.TransportError as error:
                trouble = f"{type(error).__name__} {error}".strip()
            if time.monotonic() + delay > give_up:
                raise SteerLMError(f"{self.url}{path}: no answer within {self._patience:g} s; the last was: {trouble}")
            log.warning("%s%s: %s; again in %.1f s", self.url, path, trouble, delay)
            await asyncio.sleep(delay)
        raise AssertionError("unreachable")

    def _json(self, response: "httpx.Response", path: str) -> dict[str, Any]:
        if response.status_code >= 500:
            raise SteerLMError(f"{self.url}{path}: HTTP {response.status_code}: {_reason(response)}")
        if response.status_code >= 400:
            raise InputError(f"{self.url}{path}: HTTP {response.status_code}: {_reason(response)}")
        try:
            body = response.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise InputError(f"{self.url}{path}: not a SteerLM server: the answer is not a JSON object")
        return body


def _reason(response: "httpx.Response") -> str:
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
        return min(LONGEST_DELAY, max(0.0, float(response.headers.get("retry-after", 0))))
    except ValueError:
        return 0.0
