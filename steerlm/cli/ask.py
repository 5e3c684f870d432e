# SPDX-License-Identifier: Apache-2.0
"""`steerlm ask`: one question to a steerable model, streamed into the terminal, with the dials as options."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

app = typer.Typer()


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def ask(
    context: typer.Context,
    question: str = typer.Argument(..., help="What to ask."),
    url: str = typer.Option("http://127.0.0.1:1427", "--url", help="A server (steerlm serve generate)."),
    model: Path | None = typer.Option(None, "--model", help="A model folder to run in this process instead."),
    system: str | None = typer.Option(None, "--system", help="System prompt in place of the default."),
    max_tokens: int | None = typer.Option(None, "--max-tokens", min=1, help="Length limit. Default: the window."),
    temperature: float = typer.Option(0.0, "--temperature", min=0, max=100, help="0: always the likeliest token."),
    top_p: float = typer.Option(1.0, "--top-p", min=0, max=1, help="Sample from the likeliest tokens only."),
    seed: int | None = typer.Option(None, "--seed", min=0, help="Makes sampling repeatable."),
    show_attributes: bool = typer.Option(False, "--show-attributes", help="Print the dials used, to stderr."),
) -> None:
    """Ask a steerable model. Every dial of the model is an option: --quality 4 --humor 0.

    Example: steerlm ask "What is a good pet?" --quality 4 --humor 0
    """
    from steerlm.attributes import AttributeSchema

    messages = [{"role": "system", "content": system}] if system is not None else []
    messages.append({"role": "user", "content": question})
    sampling = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
    if model is None:
        from steerlm.client import describe

        raw = describe(url)["attributes"]
        schema = AttributeSchema.model_validate(raw) if raw else None
        used = _remote(url, messages, parse_dials(context.args, schema), sampling)
    else:
        from steerlm.models.folder import read_info

        dials = parse_dials(context.args, read_info(model).attributes)
        used = _local(model, messages, dials, sampling)
    if show_attributes:
        typer.echo(",".join(f"{name}:{value}" for name, value in used.items()) or "no attributes", err=True)


def parse_dials(words: Sequence[str], schema: Any) -> dict[str, int]:
    """`--name value` and `--name=value` pairs as dials of `schema` (None: a model without). Raises `InputError`."""
    from steerlm.errors import InputError, nearest

    dials: dict[str, int] = {}
    left = list(words)
    known = {name.replace("_", "-"): name for name in (schema.active if schema else ())}
    while left:
        word = left.pop(0)
        if not word.startswith("--"):
            raise InputError(f"unexpected argument {word!r}; put the question in quotes")
        option, equals, value = word[2:].partition("=")
        name = known.get(option.replace("_", "-"))
        if name is None:
            if not known:
                raise InputError(f"unknown option --{option}; this model has no attributes")
            raise InputError(f"unknown option --{option}{nearest(option, schema.active)}")
        if not equals:
            if not left:
                raise InputError(f"--{option} needs a value {schema.low}..{schema.high}")
            value = left.pop(0)
        try:
            dials[name] = int(value)
        except ValueError:
            raise InputError(f"--{option} must be an integer {schema.low}..{schema.high}, not {value!r}") from None
    if schema:
        schema.check(dials)
    return dials


def _write(text: str) -> None:
    typer.echo(text, nl=False)


def _remote(
    url: str, messages: list[dict[str, str]], dials: dict[str, int], sampling: dict[str, Any]
) -> dict[str, int]:
    from steerlm.client import stream_chat

    body = {"messages": messages, "chat_template_kwargs": {"attributes": dials}, **sampling}
    used: dict[str, int] = {}
    for chunk in stream_chat(url, body):
        used = chunk.get("steerlm", {}).get("attributes", used)
        for choice in chunk["choices"]:
            _write(choice["delta"].get("content", ""))
    typer.echo()
    return used


def _local(
    model: Path, messages: list[dict[str, str]], dials: dict[str, int], sampling: dict[str, Any]
) -> dict[str, int]:
    import asyncio

    from steerlm.errors import InputError

    try:
        from transformers.utils import logging

        from steerlm.inference.engine.local import ask
        from steerlm.serving.chat_prompt import Message
    except ImportError as error:
        raise InputError(f"running a model needs {error.name}: pip install 'steerlm[serve]'") from None
    logging.disable_progress_bar()

    spoken = [Message(message["role"], message["content"]) for message in messages]
    used = asyncio.run(ask(model, spoken, dials, _write, **sampling))
    typer.echo()
    return used
