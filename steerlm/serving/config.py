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
        stall_seconds: The scorer is unhealthy if `max_batch` texts take longer; more of them have as much time more.
    """

    wait_ms: NonNegativeFloat = 2.0
    max_batch: PositiveInt = 64
    max_texts: PositiveInt = 4096
    stall_seconds: PositiveFloat = 300.0


class UpstreamSettings(Settings):
    """A server that runs the model instead of this process.

    Attributes:
        url: Its address. None: the model runs in this process.
        model: The model's id there. None: the folder's name, or the only one.
        key_file: File with the API key that it asks for.
        seconds: How long to wait for it at the start: it may be loading its model.
    """

    url: str | None = None
    model: str | None = None
    key_file: Path | None = None
    seconds: PositiveFloat = 600.0


class RewardServerSettings(Settings):
    """A reward server of ours, which scores candidates.

    Attributes:
        url: Its address. None: there is none.
        key_file: File with the API key that it asks for.
    """

    url: str | None = None
    key_file: Path | None = None


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
        api_keys: File of API keys, one of which every request must carry; None: no keys.
        open_metrics: Answer `/metrics` without a key.
        tls_cert: Certificate chain in PEM; None: no TLS.
        tls_key: Its private key in PEM.
        request_seconds: How long a request may be worked on; then a 504. None: as long as it takes.
        log_prompts: Write the bodies of requests to the log.
        presets: YAML file of named attributes (`presets.py`).
        upstream: The server that runs the model, if it is not this one.
        reward_server: What ranks candidates, and scores answers for the studio.
        studio: Serve the page for people at `/studio`.
        ratings: Folder or `s3://` prefix that ratings given in the studio are appended to. None: nobody can rate.
        descriptions: YAML file with a sentence about each attribute, for the studio.
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
    api_keys: Path | None = None
    open_metrics: bool = False
    tls_cert: Path | None = None
    tls_key: Path | None = None
    request_seconds: PositiveFloat | None = None
    log_prompts: bool = False
    presets: Path | None = None
    upstream: UpstreamSettings = UpstreamSettings()
    reward_server: RewardServerSettings = RewardServerSettings()
    studio: bool = True
    ratings: str | None = None
    descriptions: Path | None = None
    engine: EngineSettings = EngineSettings()
    score: ScoreSettings = ScoreSettings()
