# SPDX-License-Identifier: Apache-2.0
"""Settings of the server. Imports no torch."""

from pathlib import Path

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from steerlm.inference.engine.config import EngineSettings
from steerlm.settings import Settings


class ScoreSettings(Settings):
    """Batching of scoring requests.

    Attributes:
        wait_ms: How long the first text of a batch waits for texts of other requests.
        max_batch: Texts scored together at most.
        max_texts: Texts of one request at most.
    """

    wait_ms: NonNegativeFloat = 2.0
    max_batch: PositiveInt = 64
    max_texts: PositiveInt = 4096


class ServeSettings(Settings):
    """One server.

    Attributes:
        host: Address to listen on.
        port: 0 takes a free one.
        name: Model id in responses. None: the folder's name.
        strip_markers: Remove the template's marks from messages instead of refusing them.
        upstream_errors: Answer bad input to `PUT /generate` as NeMo does: HTTP 200 and a JSON string.
        max_body_bytes: Size of a request's body at most.
        max_total_bytes: Size of the bodies of all requests that are being received or answered; more is a 429 with
            Retry-After. A body larger than all of it is refused as too large.
        max_in_flight: Answers of all requests being generated or waiting; one more is a 429 with Retry-After. A scoring
            request counts as one answer.
        max_tokens: Tokens of an answer at most. None: as many as the window leaves.
        receive_seconds: How long a client may take to send a request, headers and body, or to read a part of the
            response; then a 408, or the end of the connection.
        max_connections: Connections at most. One more closes the one that has been waiting longest for its client.
        cors_origins: Origins of pages that may call the server from a browser; `*` for all.
        drain_seconds: How long requests in flight may take to finish after SIGTERM.
        studio: Serve the page for people at `/studio`.
        ratings: Folder or `s3://` prefix that ratings given in the studio are appended to. None: nobody can rate.
        descriptions: YAML file with a sentence about each attribute, for the studio.
        reward_url: Address of a reward server, which scores answers for the studio.
        engine: Settings of the generation engine.
        score: Settings of scoring.
    """

    host: str = "127.0.0.1"
    port: int = Field(1427, ge=0, le=65535)
    name: str | None = None
    strip_markers: bool = False
    upstream_errors: bool = False
    max_body_bytes: PositiveInt = 16 << 20
    max_total_bytes: PositiveInt = 256 << 20
    max_in_flight: PositiveInt = 1024
    max_tokens: PositiveInt | None = None
    receive_seconds: PositiveFloat = 30.0
    max_connections: PositiveInt = 4096
    cors_origins: tuple[str, ...] = ()
    drain_seconds: PositiveInt = 30
    studio: bool = True
    ratings: str | None = None
    descriptions: Path | None = None
    reward_url: str | None = None
    engine: EngineSettings = EngineSettings()
    score: ScoreSettings = ScoreSettings()
