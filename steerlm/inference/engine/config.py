# SPDX-License-Identifier: Apache-2.0
"""Settings of the generation engine. Imports no torch."""

from pydantic import Field, PositiveFloat, PositiveInt

from steerlm.settings import Settings


class EngineSettings(Settings):
    """Size of the engine's key/value cache and of its batches.

    Attributes:
        max_requests: Requests in one forward pass at most.
        step_tokens: Tokens in one forward pass at most; longer prompts are prefilled in chunks.
        page_tokens: Tokens per cache page.
        cache_tokens: Tokens the cache holds for all requests together. None: as many as `max_requests` full windows
            need, at most `cache_bytes`, at least one window.
        cache_bytes: Limit of the cache if `cache_tokens` is None.
        stall_seconds: The engine is unhealthy if requests wait and no step finished for this long.
    """

    max_requests: PositiveInt = 64
    step_tokens: PositiveInt = 512
    page_tokens: int = Field(32, ge=4)
    cache_tokens: PositiveInt | None = None
    cache_bytes: PositiveInt = 1 << 30
    stall_seconds: PositiveFloat = 300.0
