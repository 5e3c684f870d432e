# SPDX-License-Identifier: Apache-2.0
"""Answers from a policy behind an OpenAI-compatible URL.

`GET /v1/models` names the model. `POST /v1/chat/completions` takes the attributes in
`chat_template_kwargs.attributes`, as this library's server and vLLM do.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from steerlm.attributes import AttributeSchema
from steerlm.errors import InputError
from steerlm.inference.config import SamplingSettings
from steerlm.inference.engine.stop_strings import stop_start
from steerlm.inference.server_pool import ServerPool, read_json

ROUTE = "/v1/chat/completions"


class HttpChat:
    """A client of one server.

    Args:
        url: The server's address, with or without `/v1`.
        requests: Concurrent requests.
        timeout: Seconds that a request may take.
        patience: Seconds to wait while the server is unavailable.
    """

    def __init__(self, url: str, *, requests: int = 64, timeout: float = 600.0, patience: float = 300.0) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self._model: str | None = None
        self._server = ServerPool(
            [self.url], "/v1/models", self._check, requests=requests, timeout=timeout, patience=patience
        )
        self._server.connect()

    def schema(self) -> AttributeSchema | None:
        """Return the attributes of the served model; None if the server does not publish them (only ours does)."""
        reply = self._server.run(self._server.send, "GET", "/v1/model", None)
        if reply.response.status_code == 404:
            return None
        attributes = read_json(self.url, "/v1/model", reply.response).get("attributes")
        return AttributeSchema.model_validate(attributes) if attributes else None

    def complete(
        self, questions: Sequence[str], attributes: Sequence[Mapping[str, int]], sampling: SamplingSettings, seed: int
    ) -> list[str]:
        """Return an answer to each question with its requested attributes. A repeated question is sampled anew.

        Raises:
            InputError: The server refuses a request, for example because it does not fit the window.
        """
        seen: Counter[str] = Counter()
        bodies = []
        for question, requested in zip(questions, attributes, strict=True):
            bodies.append(
                {
                    "model": self._model,
                    "messages": [{"role": "user", "content": question}],
                    "chat_template_kwargs": {"attributes": dict(requested)},
                    "max_tokens": sampling.max_tokens,
                    "temperature": sampling.temperature,
                    "top_p": sampling.top_p,
                    "stop": list(sampling.stop),
                    "seed": seed + seen[question],
                }
            )
            seen[question] += 1
        return self._server.map(self._complete_one, bodies)

    async def _complete_one(self, body: dict[str, Any]) -> str:
        reply = await self._server.send("POST", ROUTE, body)
        completion = read_json(self.url, ROUTE, reply.response)
        try:
            choice = completion["choices"][0]
            text = str(choice["message"]["content"] or "")
            # Other servers return what the limit left of the turn's mark; ours has removed it.
            return text[: stop_start(text, body["stop"])] if choice.get("finish_reason") == "length" else text
        except (KeyError, IndexError, TypeError):
            raise InputError(f"{self.url}{ROUTE}: not a chat completion: {str(completion)[:200]}") from None

    def _check(self, url: str, models: dict[str, Any]) -> None:
        try:
            name = str(models["data"][0]["id"])
        except (KeyError, IndexError, TypeError):
            raise InputError(f"{url}/v1/models: not the response of an OpenAI-compatible server") from None
        if self._model is not None and self._model != name:
            raise InputError(f"{url} now serves another model: {name}, not {self._model}")
        self._model = name
