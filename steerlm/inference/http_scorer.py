# SPDX-License-Identifier: Apache-2.0
"""Scores from a reward model behind one or several URLs.

`GET /v1/model` describes the model. `POST /v1/score` takes `{"texts"}` and returns `{"attributes", "scores", "model"}`.
`server_pool.py` distributes the requests over the servers and retries them.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from steerlm.attributes import AttributeSchema
from steerlm.errors import InputError, ModelError, SteerLMError
from steerlm.inference.config import OverLong
from steerlm.inference.server_pool import ServerPool, error_message, read_json

TOO_LONG = 413

Scores = npt.NDArray[np.float32]


def server_url(host: str, port: int) -> str:
    """Return the address of a server. A `host` that is a URL is returned as it is."""
    return host if "://" in host else f"http://{host}:{port}"


class HttpScorer:
    """A `Scorer` over HTTP. All servers must serve the same model.

    The servers refuse an over-long text with status 413. To skip it, its request is split until the text is alone; to
    keep its end, the server truncates it.

    Args:
        host: Host or URL of a server.
        port: Its port.
        urls: URLs of several servers; `host` and `port` are then ignored.
        batch_texts: Texts of a request at most.
        requests: Concurrent requests per server.
        timeout: Seconds that a request may take.
        patience: Seconds to wait while no server answers.
    """

    place = "server"

    def __init__(
        self,
        host: str = "localhost",
        port: int = 1424,
        *,
        urls: Sequence[str] = (),
        batch_texts: int = 32,
        requests: int = 8,
        timeout: float = 300.0,
        patience: float = 300.0,
    ) -> None:
        urls = urls or [server_url(host, port)]
        self._batch_texts = batch_texts
        self._model: tuple[str, dict[str, Any]] | None = None
        concurrent = requests * len(urls)
        self.servers = ServerPool(
            urls, "/v1/model", self._check, requests=concurrent, timeout=timeout, patience=patience
        )
        self.servers.connect()

    def score(self, texts: Sequence[str], over_long: OverLong = "error") -> Scores:
        """See `Scorer.score`. Raises `SteerLMError` if no server answers within `patience`."""
        # Texts of similar length share a request, so that the server pads little.
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        batches = [order[start : start + self._batch_texts] for start in range(0, len(order), self._batch_texts)]

        async def one(batch: list[int]) -> Scores:
            return await self._score_batch([texts[i] for i in batch], batch, over_long)

        scores = np.full((len(texts), len(self.schema.names)), np.nan, dtype=np.float32)
        for batch, part in zip(batches, self.servers.map(one, batches), strict=True):
            scores[batch] = part
        return scores

    def _check(self, url: str, model: dict[str, Any]) -> None:
        """Remember the first server's model; raise `ModelError` if another server serves a different one."""
        try:
            if model["kind"] != "reward":
                raise ModelError(f"{url} serves a {model['kind']} model; a reward model was expected")
            schema, window = AttributeSchema.model_validate(model["attributes"]), int(model["window"])
        except (KeyError, TypeError, ValueError, ValidationError):
            raise ModelError(f"{url}/v1/model: not the response of a SteerLM reward server: {model!r}") from None
        # The digest is the same as in process, so a run started with one may be resumed with the other.
        identity = model.get("identity") or json.dumps(model, sort_keys=True)
        if self._model is None:
            self._model = url, model
            self.schema, self.window, self.identity = schema, window, identity
        elif (schema, window, identity) != (self.schema, self.window, self.identity):
            first, first_model = self._model
            raise ModelError(
                f"{url} serves another model ({model.get('id')}) than {first} ({first_model.get('id')}); all servers "
                "must serve the same model, at the same precision"
            )

    async def _score_batch(self, texts: list[str], numbers: Sequence[int], over_long: OverLong) -> Scores:
        """Score one request. `numbers`: the positions of its texts, for messages."""
        # In their own forward passes, the texts' scores do not depend on the server's other requests.
        body: dict[str, Any] = {"texts": texts, "alone": True}
        if over_long == "keep_end":
            body["over_long"] = over_long
        reply = await self.servers.send("POST", "/v1/score", body)
        url, response, width = reply.url, reply.response, len(self.schema.names)
        if response.status_code == TOO_LONG:
            if len(texts) > 1:
                middle = len(texts) // 2
                left = await self._score_batch(texts[:middle], numbers[:middle], over_long)
                right = await self._score_batch(texts[middle:], numbers[middle:], over_long)
                return np.concatenate([left, right])
            if over_long == "skip":
                return np.full((1, width), np.nan, dtype=np.float32)
            raise InputError(
                f"text {numbers[0]} is longer than the model's window of {self.window}: {error_message(response)}"
            )
        scored = read_json(url, "/v1/score", response)
        if tuple(scored.get("attributes") or ()) != self.schema.names:
            raise SteerLMError(f"{url}: the server now serves another model: attributes {scored.get('attributes')}")
        try:
            scores = np.asarray(scored.get("scores"), dtype=np.float32)
        except (TypeError, ValueError):
            scores = np.empty(0, dtype=np.float32)
        if scores.shape != (len(texts), width) or not np.isfinite(scores).all():
            raise SteerLMError(
                f"{url}: finite scores of {len(texts)} texts and {width} attributes were expected, not {scores}"
            )
        return scores
