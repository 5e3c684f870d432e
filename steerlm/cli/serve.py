# SPDX-License-Identifier: Apache-2.0
"""`steerlm serve`: a reward model or a steerable model over HTTP."""

import enum
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import typer

from steerlm.cli.panels import SectionedCommand

LogFormat = Literal["text", "json"]

app = typer.Typer(
    no_args_is_help=True,
    help="Serve a reward model or a steerable model over HTTP.\n\nExample: steerlm serve generate MODEL --port 1427",
)

NETWORK, SECURITY, LIMITS, OPERATION = "Network", "Security", "Limits", "Operation"


class EngineName(enum.StrEnum):
    """Who runs the model."""

    transformers = "transformers"
    vllm = "vllm"


Model = typer.Argument(..., help="Model folder.")
Name = typer.Option(None, "--name", help="Model id in responses. Default: the folder's name.")
Strip = typer.Option(False, "--strip-markers", help="Remove the template's marks from texts instead of refusing them.")

Host = typer.Option("127.0.0.1", "--host", help="Address to listen on; 0.0.0.0 for all.", rich_help_panel=NETWORK)
Connections = typer.Option(
    4096,
    "--max-connections",
    min=1,
    help="Connections; one more ends the longest waiting one.",
    rich_help_panel=NETWORK,
)
Receive = typer.Option(
    30.0,
    "--receive-seconds",
    min=0.001,
    help="Time for a client to send a whole request.",
    rich_help_panel=NETWORK,
)
Cors = typer.Option(
    [],
    "--cors-origin",
    help="Let pages of this origin call the server from a browser; repeatable.",
    rich_help_panel=NETWORK,
)

Keys = typer.Option(
    None,
    "--api-keys",
    help="YAML file of API keys, with their limits; every request must carry one.",
    rich_help_panel=SECURITY,
)
OpenMetrics = typer.Option(False, "--open-metrics", help="Answer /metrics without a key.", rich_help_panel=SECURITY)
TlsCert = typer.Option(None, "--tls-cert", help="Certificate chain in PEM: serve HTTPS.", rich_help_panel=SECURITY)
TlsKey = typer.Option(None, "--tls-key", help="The certificate's private key in PEM.", rich_help_panel=SECURITY)

Body = typer.Option(16, "--max-body-mib", min=1, help="Largest request, in MiB.", rich_help_panel=LIMITS)
Total = typer.Option(
    256,
    "--max-total-mib",
    min=1,
    help="Bodies of all requests together, in MiB; more is a 429.",
    rich_help_panel=LIMITS,
)
Flight = typer.Option(
    1024,
    "--max-in-flight",
    min=1,
    help="Answers being generated or waiting; one more is a 429.",
    rich_help_panel=LIMITS,
)
Seconds = typer.Option(
    None,
    "--request-seconds",
    min=0.001,
    help="Time to answer a request, then it is canceled with a 504. Default: no limit.",
    rich_help_panel=LIMITS,
)

Drain = typer.Option(
    30,
    "--drain-seconds",
    min=1,
    help="Time for requests in flight to finish after SIGTERM.",
    rich_help_panel=OPERATION,
)
Format = typer.Option("text", "--log-format", help="Form of the log's lines.", rich_help_panel=OPERATION)
Prompts = typer.Option(
    False,
    "--log-prompts",
    help="Write the bodies of requests, with their prompts, to the log.",
    rich_help_panel=OPERATION,
)

Engine = typer.Option(EngineName.transformers, "--engine", help="Who runs the model: this process, or vLLM.")
Upstream = typer.Option(None, "--upstream", help="With --engine vllm: the address of the server that runs the model.")
UpstreamModel = typer.Option(None, "--upstream-model", help="The model's id there. Default: the folder's, or the only.")
UpstreamKey = typer.Option(None, "--upstream-key-file", help="File with the API key that it asks for.")
UpstreamSeconds = typer.Option(600.0, "--upstream-seconds", min=0.001, help="How long to wait for it at the start.")


@app.command(cls=SectionedCommand)
def reward(
    model: Path = Model,
    port: int = typer.Option(
        1424, "--port", min=0, max=65535, help="Port; 0 takes a free one.", rich_help_panel=NETWORK
    ),
    name: str | None = Name,
    engine: EngineName = Engine,
    upstream: str | None = Upstream,
    upstream_model: str | None = UpstreamModel,
    upstream_key_file: Path | None = UpstreamKey,
    upstream_seconds: float = UpstreamSeconds,
    max_batch: int = typer.Option(64, "--max-batch", min=1, help="Texts in a batch at most."),
    wait_ms: float = typer.Option(2.0, "--wait-ms", min=0, help="How long a text waits for others to share its batch."),
    strip_markers: bool = Strip,
    host: str = Host,
    max_connections: int = Connections,
    receive_seconds: float = Receive,
    cors_origin: list[str] = Cors,
    api_keys: Path | None = Keys,
    open_metrics: bool = OpenMetrics,
    tls_cert: Path | None = TlsCert,
    tls_key: Path | None = TlsKey,
    max_body_mib: int = Body,
    max_total_mib: int = Total,
    max_in_flight: int = Flight,
    request_seconds: float | None = Seconds,
    drain_seconds: int = Drain,
    log_format: LogFormat = Format,
    log_prompts: bool = Prompts,
) -> None:
    """Score texts and conversations with a reward model.

    Example: steerlm serve reward runs/demo/reward --port 1424
    """
    _serve(
        model,
        "reward",
        score={"max_batch": max_batch, "wait_ms": wait_ms},
        **_shared(locals()),
    )


@app.command(cls=SectionedCommand)
def generate(
    model: Path = Model,
    port: int = typer.Option(
        1427, "--port", min=0, max=65535, help="Port; 0 takes a free one.", rich_help_panel=NETWORK
    ),
    name: str | None = Name,
    engine: EngineName = Engine,
    upstream: str | None = Upstream,
    upstream_model: str | None = UpstreamModel,
    upstream_key_file: Path | None = UpstreamKey,
    upstream_seconds: float = UpstreamSeconds,
    presets: Path | None = typer.Option(None, "--presets", help="YAML file of named attributes: model NAME:PRESET."),
    reward_url: str | None = typer.Option(None, "--reward-url", help="Reward server, which ranks answers (best_of)."),
    reward_key_file: Path | None = typer.Option(None, "--reward-key-file", help="File with the API key it asks for."),
    max_requests: int = typer.Option(64, "--max-requests", min=1, help="Requests in a batch at most."),
    cache_tokens: int | None = typer.Option(
        None, "--cache-tokens", min=1, help="Tokens the key/value cache holds. Default: from the model, up to 1 GiB."
    ),
    strip_markers: bool = Strip,
    upstream_errors: bool = typer.Option(
        False, "--upstream-errors", help="Answer bad input to PUT /generate as NeMo does: HTTP 200 and a JSON string."
    ),
    max_tokens: int | None = typer.Option(
        None, "--max-tokens", min=1, help="Tokens of an answer at most. Default: as many as the window leaves."
    ),
    no_studio: bool = typer.Option(False, "--no-studio", help="Do not serve the page for people at /studio."),
    ratings: str | None = typer.Option(
        None, "--ratings", help="Where ratings given in the studio are kept: a folder or s3://bucket/prefix."
    ),
    descriptions: Path | None = typer.Option(
        None, "--descriptions", help="A sentence about each attribute for the studio (.yaml)."
    ),
    host: str = Host,
    max_connections: int = Connections,
    receive_seconds: float = Receive,
    cors_origin: list[str] = Cors,
    api_keys: Path | None = Keys,
    open_metrics: bool = OpenMetrics,
    tls_cert: Path | None = TlsCert,
    tls_key: Path | None = TlsKey,
    max_body_mib: int = Body,
    max_total_mib: int = Total,
    max_in_flight: int = Flight,
    request_seconds: float | None = Seconds,
    drain_seconds: int = Drain,
    log_format: LogFormat = Format,
    log_prompts: bool = Prompts,
) -> None:
    """Answer with dials. Routes: PUT /generate, OpenAI's completions and chat completions.

    Example: steerlm serve generate runs/demo/policy --port 1427
    """
    if reward_url is not None:
        _check_url("--reward-url", reward_url)
    if no_studio and (ratings is not None or descriptions is not None):
        from steerlm.errors import InputError

        raise InputError("--ratings and --descriptions are for the studio: leave out --no-studio, or them")
    _serve(
        model,
        "generate",
        upstream_errors=upstream_errors,
        max_tokens=max_tokens,
        presets=presets,
        reward_server={"url": reward_url, "key_file": reward_key_file},
        studio=not no_studio,
        ratings=ratings,
        descriptions=descriptions,
        engine={"max_requests": max_requests, "cache_tokens": cache_tokens},
        **_shared(locals()),
    )


def _shared(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings in a command's options that both servers have."""
    names = (
        *("host", "port", "name", "strip_markers", "max_in_flight", "max_connections", "receive_seconds"),
        *("api_keys", "open_metrics", "tls_cert", "tls_key", "request_seconds", "drain_seconds", "log_prompts"),
        "log_format",
    )
    return {
        **{name: options[name] for name in names},
        "upstream": _upstream(options),
        "max_body_bytes": options["max_body_mib"] << 20,
        "max_total_bytes": options["max_total_mib"] << 20,
        "cors_origins": options["cors_origin"],
    }


def _upstream(options: Mapping[str, Any]) -> dict[str, Any]:
    from steerlm.errors import InputError

    url = options["upstream"]
    if options["engine"] == EngineName.transformers:
        if url is not None:
            raise InputError("--upstream is the server that runs the model: give --engine vllm too")
        return {}
    if url is None:
        raise InputError("--engine vllm needs --upstream: the address of vLLM, such as http://127.0.0.1:8000")
    _check_url("--upstream", url)
    names = {"model": "upstream_model", "key_file": "upstream_key_file", "seconds": "upstream_seconds"}
    return {"url": url, **{name: options[option] for name, option in names.items()}}


def _check_url(option: str, url: str) -> None:
    from urllib.parse import urlsplit

    from steerlm.errors import InputError

    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid:
        raise InputError(f"{option} {url}: an address such as http://127.0.0.1:8000 was expected")


def _serve(model: Path, server: Literal["reward", "generate"], *, log_format: LogFormat, **settings: Any) -> None:
    import logging
    import os

    from steerlm.errors import InputError
    from steerlm.serving.config import ServeSettings

    extra = "gateway" if settings["upstream"] else "serve"
    if extra == "gateway":  # which needs no torch: transformers would warn, on a line without the log's form
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    try:
        from steerlm.serving.operations.logs import configure
        from steerlm.serving.run import serve
    except ImportError as error:
        raise InputError(f"serving needs {error.name}: pip install 'steerlm[{extra}]'") from None
    configure(log_format)
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.WARNING)
    serve(model, server, ServeSettings(**settings))
