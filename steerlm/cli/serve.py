# SPDX-License-Identifier: Apache-2.0
"""`steerlm serve`: a reward model or a steerable model over HTTP."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import typer

app = typer.Typer(
    no_args_is_help=True,
    help="Serve a reward model or a steerable model over HTTP.\n\nExample: steerlm serve generate MODEL --port 1427",
)

Model = typer.Argument(..., help="Model folder.")
Host = typer.Option("127.0.0.1", "--host", help="Address to listen on; 0.0.0.0 for all.")
Name = typer.Option(None, "--name", help="Model id in responses. Default: the folder's name.")
Strip = typer.Option(False, "--strip-markers", help="Remove the template's marks from texts instead of refusing them.")
Body = typer.Option(16, "--max-body-mib", min=1, help="Largest request, in MiB.")
Total = typer.Option(256, "--max-total-mib", min=1, help="Bodies of all requests together, in MiB; more is a 429.")
Flight = typer.Option(1024, "--max-in-flight", min=1, help="Answers being generated or waiting; one more is a 429.")
Connections = typer.Option(4096, "--max-connections", min=1, help="Connections; one more ends the longest waiting one.")
Receive = typer.Option(30.0, "--receive-seconds", min=0.001, help="Time for a client to send a whole request.")
Cors = typer.Option([], "--cors-origin", help="Let pages of this origin call the server from a browser; repeatable.")
Drain = typer.Option(30, "--drain-seconds", min=1, help="Time for requests in flight to finish after SIGTERM.")


@app.command()
def reward(
    model: Path = Model,
    port: int = typer.Option(1424, "--port", min=0, max=65535, help="Port; 0 takes a free one."),
    host: str = Host,
    name: str | None = Name,
    max_batch: int = typer.Option(64, "--max-batch", min=1, help="Texts in a batch at most."),
    wait_ms: float = typer.Option(2.0, "--wait-ms", min=0, help="How long a text waits for others to share its batch."),
    strip_markers: bool = Strip,
    max_body_mib: int = Body,
    max_total_mib: int = Total,
    max_in_flight: int = Flight,
    max_connections: int = Connections,
    receive_seconds: float = Receive,
    cors_origin: list[str] = Cors,
    drain_seconds: int = Drain,
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


@app.command()
def generate(
    model: Path = Model,
    port: int = typer.Option(1427, "--port", min=0, max=65535, help="Port; 0 takes a free one."),
    host: str = Host,
    name: str | None = Name,
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
    reward_url: str | None = typer.Option(None, "--reward-url", help="A reward server, which scores answers."),
    no_studio: bool = typer.Option(False, "--no-studio", help="Do not serve the page for people at /studio."),
    ratings: str | None = typer.Option(
        None, "--ratings", help="Where ratings given in the studio are kept: a folder or s3://bucket/prefix."
    ),
    descriptions: Path | None = typer.Option(
        None, "--descriptions", help="A sentence about each attribute for the studio (.yaml)."
    ),
    max_body_mib: int = Body,
    max_total_mib: int = Total,
    max_in_flight: int = Flight,
    max_connections: int = Connections,
    receive_seconds: float = Receive,
    cors_origin: list[str] = Cors,
    drain_seconds: int = Drain,
) -> None:
    """Answer with dials. Routes: PUT /generate, OpenAI's completions and chat completions.

    Example: steerlm serve generate runs/demo/policy --port 1427
    """
    _serve(
        model,
        "generate",
        upstream_errors=upstream_errors,
        max_tokens=max_tokens,
        reward_url=reward_url,
        studio=not no_studio,
        ratings=ratings,
        descriptions=descriptions,
        engine={"max_requests": max_requests, "cache_tokens": cache_tokens},
        **_shared(locals()),
    )


def _shared(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings in a command's options that both servers have."""
    names = ("host", "port", "name", "strip_markers", "max_in_flight", "max_connections", "receive_seconds")
    return {
        **{name: options[name] for name in (*names, "drain_seconds")},
        "max_body_bytes": options["max_body_mib"] << 20,
        "max_total_bytes": options["max_total_mib"] << 20,
        "cors_origins": options["cors_origin"],
    }


def _serve(model: Path, server: Literal["reward", "generate"], **settings: Any) -> None:
    import logging

    from steerlm.errors import InputError
    from steerlm.serving.config import ServeSettings

    try:
        from steerlm.serving.run import serve
    except ImportError as error:
        raise InputError(f"serving needs {error.name}: pip install 'steerlm[serve]'") from None
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.WARNING)
    serve(model, server, ServeSettings(**settings))
