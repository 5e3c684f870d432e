# SPDX-License-Identifier: Apache-2.0
"""A reward model behind one or several URLs: batches of texts go to the servers' JSON route, several at a time.

The wire: `GET /v1/model` tells the attributes and the window; `POST /v1/score` takes `{"texts"}` and answers
`{"attributes", "scores", "model"}`. How servers are shared, and waited for, is in `servers.py`.
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
from steerlm.inference.servers import Servers, read_json, reason

TOO_LONG = 413

Scores = npt.NDArray[np.float32]


def server_url(host: str, port: int) -> str:
    """The address of a server; a `host` that is a URL is it already."""
    return host if "://" in host else f"http://{host}:{port}"


class HttpScorer:
    """A `Scorer` over HTTP. All servers must serve the same model; one that is away is left out while others answer.

    `urls`: of the servers; without any, `host` and `port` of one. `timeout`: seconds a request may take; `patience`:
    seconds without any answer to give up. An over-long text is refused with 413; under `skip` its request is split
    until the text is alone, under `keep_end` the server cuts it.
    """

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
        many = requests * len(urls)
        self.servers = Servers(urls, "/v1/model", self._check, requests=many, timeout=timeout, patience=patience)
        self.servers.greet()

    def score(self, texts: Sequence[str], over_long: OverLong = "error") -> Scores:
        """See `Scorer.score`. Raises `SteerLMError` when every server stays away longer than `patience`."""
        # Texts of like length share a request: the server has little to pad then.
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        batches = [order[start : start + self._batch_texts] for start in range(0, len(order), self._batch_texts)]

        async def one(batch: list[int]) -> Scores:
            return await self._score_batch([texts[i] for i in batch], batch, over_long)

        scores = np.full((len(texts), len(self.schema.names)), np.nan, dtype=np.float32)
        for batch, part in zip(batches, self.servers.map(one, batches), strict=True):
            scores[batch] = part
        return scores

    def _check(self, url: str, model: dict[str, Any]) -> None:
        """Take the first server's model for ours; raise `ModelError` for a server that serves another."""
        try:
            if model["kind"] != "reward":
                raise ModelError(f"{url} serves a {model['kind']} model; a reward model was expected")
            schema, window = AttributeSchema.model_validate(model["attributes"]), int(model["window"])
        except (KeyError, TypeError, ValueError, ValidationError):
            raise ModelError(f"{url}/v1/model: not the answer of a SteerLM reward server: {model!r}") from None
        # The server's digest is that of the model in process: a pass begun with the one may go on with the other.
        identity = model.get("identity") or json.dumps(model, sort_keys=True)
        if self._model is None:
            self._model = url, model
            self.schema, self.window, self.identity = schema, window, identity
        elif (schema, window, identity) != (self.schema, self.window, self.identity):
            first, known = self._model
            raise ModelError(
                f"{url} serves another model ({model.get('id')}) than {first} ({known.get('id')}); all servers of a "
                "pass must serve the same model, at the same precision"
            )

    async def _score_batch(self, texts: list[str], numbers: Sequence[int], over_long: OverLong) -> Scores:
        """Scores of one request; `numbers`: of its texts, for messages."""
        # Alone in their forward passes, the texts' scores do not depend on what else the server has to do.
        body: dict[str, Any] = {"texts": texts, "alone": True}
        if over_long == "keep_end":
            body["over_long"] = over_long
        answer = await self.servers.send("POST", "/v1/score", body)
        url, response, width = answer.url, answer.response, len(self.schema.names)
        if response.status_code == TOO_LONG:
            if len(texts) > 1:
                middle = len(texts) // 2
                left = await self._score_batch(texts[:middle], numbers[:middle], over_long)
                right = await self._score_batch(texts[middle:], numbers[middle:], over_long)
                return np.concatenate([left, right])
            if over_long == "skip":
                return np.full((1, width), np.nan, dtype=np.float32)
            raise InputError(
                f"text {numbers[0]} is longer than the model's window of {self.window}: {reason(response)}"
            )
        reply = read_json(url, "/v1/score", response)
        if tuple(reply.get("attributes") or ()) != self.schema.names:
            raise SteerLMError(f"{url}: the server now serves another model: attributes {reply.get('attributes')}")
        try:
            scores = np.asarray(reply.get("scores"), dtype=np.float32)
        except (TypeError, ValueError):
            scores = np.empty(0, dtype=np.float32)
        if scores.shape != (len(texts), width) or not np.isfinite(scores).all():
            raise SteerLMError(
                f"{url}: finite scores of {len(texts)} texts and {width} attributes were expected, not {scores}"
            )
        return scores
