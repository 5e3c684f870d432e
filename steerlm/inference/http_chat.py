# SPDX-License-Identifier: Apache-2.0
"""A policy behind an OpenAI-compatible URL: questions and dials in, answers out.

The wire: `GET /v1/models` names the model; `POST /v1/chat/completions` takes the dials in
`chat_template_kwargs.attributes`, as our server and vLLM do.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from steerlm.attributes import AttributeSchema
from steerlm.errors import InputError
from steerlm.inference.config import SamplingSettings
from steerlm.inference.servers import Servers, read_json

ROUTE = "/v1/chat/completions"


class HttpChat:
    """One server, waited for as long as it is busy or away, up to `patience` seconds. `requests`: at a time."""

    def __init__(self, url: str, *, requests: int = 64, timeout: float = 600.0, patience: float = 300.0) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self._model: str | None = None
        self._servers = Servers(
            [self.url], "/v1/models", self._check, requests=requests, timeout=timeout, patience=patience
        )
        self._servers.greet()

    def schema(self) -> AttributeSchema | None:
        """The attributes of the served model; None where the server does not tell them (only ours does)."""
        answer = self._servers.run(self._servers.send, "GET", "/v1/model", None)
        if answer.response.status_code == 404:
            return None
        attributes = read_json(self.url, "/v1/model", answer.response).get("attributes")
        return AttributeSchema.model_validate(attributes) if attributes else None

    def ask(
        self, questions: Sequence[str], dials: Sequence[Mapping[str, int]], sampling: SamplingSettings, seed: int
    ) -> list[str]:
        """An answer to each question with its dials, in order. A question that is repeated is drawn anew.

        Raises `InputError` for a request that the server refuses, such as one that does not fit its window.
        """
        seen: Counter[str] = Counter()
        bodies = []
        for question, chosen in zip(questions, dials, strict=True):
            bodies.append(
                {
                    "model": self._model,
                    "messages": [{"role": "user", "content": question}],
                    "chat_template_kwargs": {"attributes": dict(chosen)},
                    "max_tokens": sampling.max_tokens,
                    "temperature": sampling.temperature,
                    "top_p": sampling.top_p,
                    "seed": seed + seen[question],
                }
            )
            seen[question] += 1
        return self._servers.map(self._one, bodies)

    async def _one(self, body: dict[str, Any]) -> str:
        answer = await self._servers.send("POST", ROUTE, body)
        reply = read_json(self.url, ROUTE, answer.response)
        try:
            return str(reply["choices"][0]["message"]["content"] or "")
        except (KeyError, IndexError, TypeError):
            raise InputError(f"{self.url}{ROUTE}: not a chat completion: {str(reply)[:200]}") from None

    def _check(self, url: str, models: dict[str, Any]) -> None:
        try:
            name = str(models["data"][0]["id"])
        except (KeyError, IndexError, TypeError):
            raise InputError(f"{url}/v1/models: not the answer of an OpenAI-compatible server") from None
        if self._model is not None and self._model != name:
            raise InputError(f"{url} now serves another model: {name}, not {self._model}")
        self._model = name
