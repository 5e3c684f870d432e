# SPDX-License-Identifier: Apache-2.0
"""What both kinds of upstream have in common: a `ServedEngine` whose model runs elsewhere."""

from steerlm.serving.config import UpstreamSettings
from steerlm.serving.service import ServiceLoad
from steerlm.serving.upstream.folder import FolderFacts
from steerlm.serving.upstream.model import UpstreamModel


class ServedUpstream:
    """A model of an upstream. Of the folder, weights are not loaded.

    Attributes:
        window: Tokens at most: the folder's, after `launch` the upstream's if that is smaller.
        tokenizer: The folder's, as transformers has it.
    """

    healthy = True

    def __init__(self, facts: FolderFacts, settings: UpstreamSettings) -> None:
        self.window, self.tokenizer = facts.window, facts.tokenizer
        self._upstream = UpstreamModel(facts, settings)

    @property
    def available(self) -> bool:
        """See `ServedEngine.available`."""
        return self._upstream.client.available

    async def load(self) -> ServiceLoad | None:
        """See `ServedEngine.load`; asked for now."""
        return await self._upstream.load() if self.available else None

    async def launch(self) -> None:
        """See `ServedEngine.launch`."""
        await self._upstream.find()
        self.window = min(self.window, self._upstream.window or self.window)

    async def shutdown(self) -> None:
        """See `ServedEngine.shutdown`."""
        await self._upstream.client.close()
