# SPDX-License-Identifier: Apache-2.0
"""The model that an upstream serves: found in its list, and checked to be the one that the model folder describes."""

import asyncio
from typing import Any

from steerlm.errors import ModelError, SteerLMError, nearest
from steerlm.serving.config import UpstreamSettings
from steerlm.serving.service import ServiceLoad
from steerlm.serving.upstream.client import UpstreamClient, UpstreamError, read_key
from steerlm.serving.upstream.folder import FolderFacts
from steerlm.serving.upstream.load import METRICS, read_load

HEALTH = "/health"
METRICS_SECONDS = 2.0
"""Whoever reads this server's metrics waits for the upstream's, for so long."""
PROBE = "User\nWhat is a good pet?\n"


class UpstreamModel:
    """One model of an upstream.

    Attributes:
        client: Sends requests.
        name: The model's id there; empty before `find`.
        window: Tokens of its window; None if the upstream does not say.
    """

    def __init__(self, facts: FolderFacts, settings: UpstreamSettings) -> None:
        assert settings.url is not None
        self.client = UpstreamClient(settings.url, read_key(settings.key_file))
        self.name = ""
        self.window: int | None = None
        self._facts, self._settings = facts, settings

    async def find(self) -> None:
        """Wait for the upstream, and find the model there.

        Raises:
            ModelError: The model is not there, or has another tokenizer.
            SteerLMError: The upstream does not answer in time.
        """
        await self.client.open()
        listed = _models(await self.client.wait("/v1/models", self._settings.seconds), self.client.url)
        wanted = self._settings.model or (self._facts.name if self._facts.name in listed else None)
        if wanted is None and len(listed) > 1:
            raise ModelError(f"{self.client.url} has {', '.join(listed)}; say which with --upstream-model")
        name = wanted or next(iter(listed))
        if name not in listed:
            raise ModelError(f"{self.client.url} has no model {name!r}{nearest(name, listed)}")
        self.name, self.window = name, listed[name]
        await self._check_tokenizer()
        await self._check_attributes()
        self.client.watch(HEALTH, self._recheck)

    async def load(self) -> ServiceLoad | None:
        """Return what the upstream is doing now; None if it does not say, or not within `METRICS_SECONDS`."""
        try:
            async with asyncio.timeout(METRICS_SECONDS):
                return await read_load(self.client.lines(METRICS))
        except (UpstreamError, TimeoutError, ValueError):
            return None

    async def _recheck(self) -> None:
        listed = _models(await self.client.get("/v1/models"), self.client.url)
        if listed.get(self.name, 0) != self.window:
            raise SteerLMError(
                f"{self.client.url} came back with {listed}, not with {self.name!r} and a window of {self.window}"
            )

    async def _check_tokenizer(self) -> None:
        """Compare a text's ids, where the upstream has vLLM's `/tokenize`."""
        try:
            body = {"model": self.name, "prompt": PROBE, "add_special_tokens": False}
            theirs = (await self.client.post("/tokenize", body)).get("tokens")
        except UpstreamError as error:
            if error.upstream_status in (404, 405, 501):
                return
            raise SteerLMError(error.whole) from None
        ours = self._facts.tokenizer(PROBE, add_special_tokens=False)["input_ids"]
        if theirs != ours:
            raise ModelError(
                f"{self.client.url} tokenizes otherwise than the model folder ({theirs} and {ours} for {PROBE!r}): "
                "it serves another model"
            )

    async def _check_attributes(self) -> None:
        """Compare the attributes, where the upstream is a server of ours."""
        try:
            described = await self.client.get("/v1/model")
        except UpstreamError as error:
            if error.upstream_status in (404, 405, 501):
                return
            raise SteerLMError(error.whole) from None
        theirs, schema = described.get("attributes"), self._facts.info.attributes
        names = list(schema.names) if schema else None
        if isinstance(theirs, dict) and theirs.get("names") != names:
            raise ModelError(
                f"{self.client.url} serves a model with the attributes {theirs.get('names')}, the folder has {names}; "
                "it is another model"
            )


def _models(reply: dict[str, Any], url: str) -> dict[str, int | None]:
    """Return the windows of the models in a reply of `/v1/models`."""
    try:
        models = {str(one["id"]): one.get("max_model_len") for one in reply["data"]}
        # Presets of one of our servers, and adapters, name the model that they belong to.
        models = {
            str(one["id"]): models[str(one["id"])] for one in reply["data"] if one.get("parent") not in models
        } or models
    except (KeyError, TypeError, AttributeError):
        models = {}
    if not models:
        raise ModelError(f"{url}/v1/models lists no model; an OpenAI-compatible server was expected")
    return models
