# SPDX-License-Identifier: Apache-2.0
"""`steerlm ask`: ask a steerable model a question and stream its answer, with attributes as options."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from steerlm.attributes import AttributeSchema
    from steerlm.client import Chat

app = typer.Typer()

Url = typer.Option(
    "http://127.0.0.1:1427", "--url", help="Address of a server (steerlm serve generate), with or without /v1."
)
Model = typer.Option(None, "--model", help="Model folder to run in this process, without a server.")
System = typer.Option(None, "--system", help="System prompt. Default: the one used in training.")
MaxTokens = typer.Option(None, "--max-tokens", min=1, help="Maximum tokens of an answer. Default: the window.")
Temperature = typer.Option(0.0, "--temperature", min=0, max=100, help="0: always the most likely token.")
TopP = typer.Option(1.0, "--top-p", min=0, max=1, help="Probability mass to sample from.")
Seed = typer.Option(None, "--seed", help="Makes sampling repeatable.")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def ask(
    context: typer.Context,
    question: str = typer.Argument(..., help="The question."),
    url: str = Url,
    model: Path | None = Model,
    preset: str | None = typer.Option(
        None, "--preset", help="A preset of the server: it sets the attributes that are not given."
    ),
    system: str | None = System,
    max_tokens: int | None = MaxTokens,
    temperature: float = Temperature,
    top_p: float = TopP,
    seed: int | None = Seed,
    show_attributes: bool = typer.Option(False, "--show-attributes", help="Print the attributes used to stderr."),
) -> None:
    """Ask a steerable model. Each of the model's attributes is an option: --quality 4 --humor 0.

    Example: steerlm ask "What is a good pet?" --quality 4 --humor 0
    """
    chosen = open_chat(url, model, preset)
    attributes = parse_attributes(context.args, chosen.schema, any_name=not chosen.checks_attributes)
    messages = [{"role": "system", "content": system}] if system is not None else []
    messages.append({"role": "user", "content": question})
    sampling = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
    used = chosen.answer(messages, attributes, sampling, write)
    typer.echo()
    if show_attributes:
        from steerlm.attributes import format_labels

        typer.echo(format_labels(used) or "no attributes", err=True)


def open_chat(url: str, model: Path | None, preset: str | None = None) -> "Chat":
    """Return a chat with a server's model and one of its presets, or with a folder's model in this process.

    Raises:
        InputError: The server or the folder has no model that answers, or no such preset.
    """
    if model is None:
        from steerlm.client import ServedChat

        return ServedChat(url, preset)
    from steerlm.errors import InputError

    if preset is not None:
        raise InputError("--preset names a preset of a server; a model folder (--model) has none: give its attributes")
    try:
        from transformers.utils import logging

        from steerlm.models.folder import read_info
        from steerlm.serving.local import FolderChat
    except ImportError as error:
        raise InputError(f"running a model needs {error.name}: pip install 'steerlm[serve]'") from None
    if read_info(model).kind == "reward":
        raise InputError(f"{model} is a reward model, which scores answers and gives none; it is served for scores")
    logging.disable_progress_bar()
    return FolderChat(model)


def write(text: str) -> None:
    """Print a part of an answer at once."""
    typer.echo(text, nl=False)
    sys.stdout.flush()


def parse_attributes(
    arguments: Sequence[str], schema: "AttributeSchema | None", *, any_name: bool = False
) -> dict[str, int]:
    """Return the attributes in `--name value` and `--name=value` arguments.

    Args:
        arguments: Arguments that are not options of the command.
        schema: The model's attributes; None for a model without.
        any_name: Take any name and whole number, because only the server knows the attributes.

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
        name = option.replace("-", "_") if any_name else known.get(option.replace("_", "-"))
        if not any_name and not known:
            raise InputError(f"unknown option --{option}; this model has no attributes")
        if name is None:
            raise InputError(f"unknown option --{option}{nearest(option, known.values())}")
        values = f" {schema.low}..{schema.high}" if schema else ""
        if not equals:
            if not remaining:
                raise InputError(f"--{option} needs a value{values}")
            value = remaining.pop(0)
        try:
            attributes[name] = int(value)
        except ValueError:
            raise InputError(f"--{option} must be an integer{values}, not {value!r}") from None
    if schema:
        schema.check(attributes)
    return attributes
