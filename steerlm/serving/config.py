# SPDX-License-Identifier: Apache-2.0
"""Settings of the server: where it listens, how much it batches, what it refuses. Torch-free."""

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from steerlm.settings import Settings


class EngineSettings(Settings):
    """The generation engine's cache and batch.

    `cache_tokens`: tokens the key/value cache holds for all requests together. None: as many as `max_requests` full
    windows need, at most `cache_bytes`, at least one window. `step_tokens`: tokens one forward pass takes at most;
    a longer prompt is read in pieces.
    """

    max_requests: PositiveInt = 64
    step_tokens: PositiveInt = 512
    page_tokens: int = Field(32, ge=4)
    cache_tokens: PositiveInt | None = None
    cache_bytes: PositiveInt = 1 << 30
    stall_seconds: PositiveFloat = 300.0
    """Without a finished step for so long while requests wait, the server calls itself unhealthy."""


class ScoreSettings(Settings):
    """Batching of scoring requests: wait `wait_ms` for other clients' texts, score at most `max_batch` together."""

    wait_ms: NonNegativeFloat = 2.0
    max_batch: PositiveInt = 64
    max_texts: PositiveInt = 4096


class ServeSettings(Settings):
    """One server. `drain_seconds` bounds how long requests in flight may take to finish after SIGTERM."""

    host: str = "127.0.0.1"
    port: int = Field(1427, ge=0, le=65535)
    name: str | None = None
    """The model id in replies; None: the folder's name."""
    strip_markers: bool = False
    """Remove the template's marks from messages instead of refusing them."""
    upstream_errors: bool = False
    """PUT /generate answers bad input as NeMo does: HTTP 200 and a JSON string."""
    max_body_bytes: PositiveInt = 16 << 20
    max_in_flight: PositiveInt = 1024
    """Answers being made or waiting at a time, of all requests; one more is a 429 with Retry-After. A scoring request
    counts as one."""
    max_tokens: PositiveInt | None = None
    """Tokens an answer may have at most; None: what the window leaves."""
    drain_seconds: PositiveInt = 30
    engine: EngineSettings = EngineSettings()
    score: ScoreSettings = ScoreSettings()
