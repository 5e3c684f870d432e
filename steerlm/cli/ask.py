# SPDX-License-Identifier: Apache-2.0
"""`steerlm ask`: ask a steerable model a question and stream its answer, with attributes as options."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from steerlm.attributes import AttributeSchema

app = typer.Typer()


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def ask(
    context: typer.Context,
    question: str = typer.Argument(..., help="The question."),
    url: str = typer.Option("http://127.0.0.1:1427", "--url", help="Address of a server (steerlm serve generate)."),
    model: Path | None = typer.Option(None, "--model", help="Model folder to run in this process, without a server."),
    system: str | None = typer.Option(None, "--system", help="System prompt. Default: the one used in training."),
    max_tokens: int | None = typer.Option(
        None, "--max-tokens", min=1, help="Maximum tokens of the answer. Default: the window."
    ),
    temperature: float = typer.Option(0.0, "--temperature", min=0, max=100, help="0: always the most likely token."),
    top_p: float = typer.Option(1.0, "--top-p", min=0, max=1, help="Probability mass to sample from."),
    seed: int | None = typer.Option(None, "--seed", help="Makes sampling repeatable."),
    show_attributes: bool = typer.Option(False, "--show-attributes", help="Print the attributes used to stderr."),
) -> None:
    """Ask a steerable model. Each of the model's attributes is an option: --quality 4 --humor 0.

    Example: steerlm ask "What is a good pet?" --quality 4 --humor 0
    """
    from steerlm.attributes import AttributeSchema

    messages = [{"role": "system", "content": system}] if system is not None else []
    messages.append({"role": "user", "content": question})
    sampling = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
    if model is None:
        from steerlm.client import describe

        description = describe(url)["attributes"]
        schema = AttributeSchema.model_validate(description) if description else None
        used = _ask_server(url, messages, parse_attributes(context.args, schema), sampling)
    else:
        from steerlm.models.folder import read_info

        requested = parse_attributes(context.args, read_info(model).attributes)
        used = _ask_folder(model, messages, requested, sampling)
    if show_attributes:
        typer.echo(",".join(f"{name}:{value}" for name, value in used.items()) or "no attributes", err=True)


def parse_attributes(arguments: Sequence[str], schema: "AttributeSchema | None") -> dict[str, int]:
    """Return the attributes in `--name value` and `--name=value` arguments.

    Args:
        arguments: Arguments that are not options of the command.
        schema: The model's attributes; None for a model without.

    Raises:
        InputError: An option is not an attribute of the model, or its value is invalid.
    """
    from steerlm.errors import InputError, nearest

    attributes: dict[str, int] = {}
    remaining = list(arguments)
    known = {name.replace("_", "-"): name for name in (schema.active if schema else ())}
    while remaining:
        argument = remaining.pop(0)
        if not argument.startswith("--"):
            raise InputError(f"unexpected argument {argument!r}; put the question in quotes")
        option, equals, value = argument[2:].partition("=")
        name = known.get(option.replace("_", "-"))
        if schema is None or not known:
            raise InputError(f"unknown option --{option}; this model has no attributes")
        if name is None:
            raise InputError(f"unknown option --{option}{nearest(option, schema.active)}")
        if not equals:
            if not remaining:
                raise InputError(f"--{option} needs a value {schema.low}..{schema.high}")
            value = remaining.pop(0)
        try:
            attributes[name] = int(value)
        except ValueError:
            raise InputError(f"--{option} must be an integer {schema.low}..{schema.high}, not {value!r}") from None
    if schema:
        schema.check(attributes)
    return attributes


def _write(text: str) -> None:
    typer.echo(text, nl=False)


def _ask_server(
    url: str, messages: list[dict[str, str]], attributes: dict[str, int], sampling: dict[str, Any]
) -> dict[str, int]:
    from steerlm.client import stream_chat

    body = {"messages": messages, "chat_template_kwargs": {"attributes": attributes}, **sampling}
    used: dict[str, int] = {}
    for chunk in stream_chat(url, body):
        used = chunk.get("steerlm", {}).get("attributes", used)
        for choice in chunk["choices"]:
            _write(choice["delta"].get("content", ""))
    typer.echo()
    return used


def _ask_folder(
    model: Path, messages: list[dict[str, str]], attributes: dict[str, int], sampling: dict[str, Any]
) -> dict[str, int]:
    import asyncio

    from steerlm.errors import InputError

    try:
        from transformers.utils import logging

        from steerlm.inference.engine.sampling_params import SamplingParams
        from steerlm.prompt import TURN_STOP_STRINGS
        from steerlm.serving.chat_prompt import ChatMessage
        from steerlm.serving.local import stream_answer
    except ImportError as error:
        raise InputError(f"running a model needs {error.name}: pip install 'steerlm[serve]'") from None
    logging.disable_progress_bar()

    chat = [ChatMessage.model_validate(message) for message in messages]
    params = SamplingParams(stop=TURN_STOP_STRINGS, **sampling)
    used = asyncio.run(stream_answer(model, chat, attributes, params, _write))
    typer.echo()
    return used
