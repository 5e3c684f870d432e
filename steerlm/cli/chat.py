# SPDX-License-Identifier: Apache-2.0
"""`steerlm chat`: a conversation with a steerable model, whose dials are turned between the answers."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from steerlm.cli.ask import (
    MaxTokens,
    Model,
    Seed,
    System,
    Temperature,
    TopP,
    Url,
    open_chat,
    parse_attributes,
    write,
)

if TYPE_CHECKING:
    from steerlm.client import Chat

app = typer.Typer()

COMMANDS = """\
/set humor 4    turn a dial; several: /set humor 4 quality 0
/unset humor    back to the model's default; without a name: all dials
/show           the dials, and how long the conversation is
/reset          forget the conversation, keep the dials
/quit           leave (or Ctrl-D)
//text          a message that begins with a slash"""


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def chat(
    context: typer.Context,
    url: str = Url,
    model: Path | None = Model,
    system: str | None = System,
    max_tokens: int | None = MaxTokens,
    temperature: float = Temperature,
    top_p: float = TopP,
    seed: int | None = Seed,
) -> None:
    """Chat with a steerable model. Each of its attributes is an option, and /set turns it later: /set humor 4.

    Lines are read from a terminal, with a history, or from a pipe, where the first error ends the chat.

    Example: steerlm chat --quality 4 --humor 0
    """
    chosen = open_chat(url, model)
    dials = parse_attributes(context.args, chosen.schema, any_name=not chosen.checks_attributes)
    sampling = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
    session = ChatSession(chosen, dials, sampling, system)
    if not sys.stdin.isatty():
        for line in sys.stdin:
            if not session.handle(line):
                return
        return
    _talk(session)


class ChatSession:
    """A conversation so far, and the dials of the next answer."""

    def __init__(self, model: "Chat", dials: dict[str, int], sampling: dict[str, Any], system: str | None) -> None:
        self._model, self._dials, self._sampling = model, dials, sampling
        self._first = [{"role": "system", "content": system}] if system is not None else []
        self._turns: list[dict[str, Any]] = []

    def handle(self, line: str) -> bool:
        """Answer a message or do a command; return whether the chat goes on.

        Raises:
            InputError: The command is unknown, or the model refuses the message, which is then forgotten.
            SteerLMError: The server fails.
        """
        text = line.strip()
        if text.startswith("/") and not text.startswith("//"):
            return self._command(text)
        if text:
            self._ask(text.removeprefix("/") if text.startswith("//") else text)
        return True

    def _ask(self, text: str) -> None:
        parts: list[str] = []

        def collect(part: str) -> None:
            parts.append(part)
            write(part)

        messages = [*self._first, *self._turns, {"role": "user", "content": text}]
        used = self._model.answer(messages, self._dials, self._sampling, collect)
        typer.echo()
        answer: dict[str, Any] = {"role": "assistant", "content": "".join(parts)}
        # Its own label: turning a dial later does not change what earlier answers were asked to be.
        self._turns += [messages[-1], answer | ({"label": used} if used else {})]

    def _command(self, text: str) -> bool:
        from steerlm.errors import InputError, nearest

        name, *arguments = [word for word in re.split(r"[\s=:,]+", text) if word]
        if name == "/quit":
            return False
        if name == "/set" and arguments and len(arguments) % 2 == 0:
            options = [f"--{one}={value}" for one, value in zip(arguments[::2], arguments[1::2], strict=True)]
            self._dials |= parse_attributes(options, self._model.schema, any_name=not self._model.checks_attributes)
        elif name == "/unset":
            for unknown in [one for one in arguments if one not in self._dials]:
                raise InputError(f"{unknown} is not set{nearest(unknown, self._dials) if self._dials else ''}")
            self._dials = {one: value for one, value in self._dials.items() if arguments and one not in arguments}
        elif name == "/show":
            typer.echo(self._shown())
        elif name == "/reset":
            self._turns = []
        elif name == "/help":
            typer.echo(COMMANDS)
        else:
            raise InputError(f"unknown command {text!r}; the commands are:\n{COMMANDS}")
        return True

    def _shown(self) -> str:
        schema = self._model.schema
        names = schema.active if schema else tuple(self._dials)
        values = []
        for one in names:
            default = "" if schema is None else f"{schema.default(one)} (default)"
            values.append(f"{one} {self._dials.get(one, default)}")
        answers = len(self._turns) // 2
        return f"{', '.join(values) or 'no dials'}; {answers} answer{'' if answers == 1 else 's'} so far"


def _talk(session: ChatSession) -> None:
    import contextlib

    from steerlm.errors import SteerLMError

    with contextlib.suppress(ImportError):  # not on every system
        import readline  # noqa: F401 (input() uses it)
    typer.echo("/help lists the commands, Ctrl-D ends the chat.")
    while True:
        try:
            line = input("> ")
        except EOFError:
            typer.echo()
            return
        try:
            if not session.handle(line):
                return
        except SteerLMError as error:
            typer.echo(f"error: {error}", err=True)
        except KeyboardInterrupt:
            typer.echo("\n(stopped; this answer is forgotten)")
