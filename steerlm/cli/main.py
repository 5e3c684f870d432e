# SPDX-License-Identifier: Apache-2.0
"""The `steerlm` command: command groups that are imported when called, and one clear line for every error."""

import os
import re
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException

import steerlm

# No telemetry from MLflow, the hub client or kfp.
for _name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "HF_HUB_DISABLE_TELEMETRY"):
    os.environ.setdefault(_name, "true")

CTRL_C = 128 + signal.SIGINT  # not imported from `signals`, so that `--help` imports only typer
COMMANDS = {
    "data": ("steerlm.cli.data", "Prepare, merge, convert and check conversation data."),
    "model": ("steerlm.cli.model", "Fetch, import and export models."),
    "train": ("steerlm.cli.train", "Train a base, reward or attribute-conditioned model."),
    "annotate": ("steerlm.cli.annotate", "Label every answer of a corpus with a reward model."),
    "serve": ("steerlm.cli.serve", "Serve a reward model or a steerable model over HTTP."),
    "ask": ("steerlm.cli.ask", "Ask a served or local model with its dials set."),
    "chat": ("steerlm.cli.chat", "Chat with a served or local model, turning its dials."),
    "evaluate": ("steerlm.cli.evaluate", "Measure steerability and reward quality; write reports."),
    "plan": ("steerlm.cli.plan", "Show what a recipe's trainings need: memory, FLOPs, storage."),
    "doctor": ("steerlm.cli.doctor", "Check what this machine or a cluster lacks for runs."),
    "preflight": ("steerlm.cli.preflight", "Measure network, GPUs, memory and disks of the nodes."),
    "run": ("steerlm.cli.run", "Run a recipe's whole pipeline, here or on a cluster."),
    "store": ("steerlm.cli.store", "List, verify, remove and clear artifacts of a store."),
}

UPSTREAM = re.compile(r"^\+{0,2}((model|trainer|exp_manager|inference)\.[\w.]+|(rm|gpt)_model_file)=")
"""Form of an option of NVIDIA's scripts, which `cli.upstream` answers."""
SCRIPT = re.compile(r"[^-].*_(data|format|annotate|model|sft|eval|nemo)(\.py)?")
"""Form of a name of one of those scripts, where a command was expected."""


class LazyGroup(TyperGroup):
    """Imports a command's module when it is called, so that `--help` imports only typer."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the command names in the order of `--help`, without importing their modules."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, or None if there is none of that name; for `--help` only its name and help text."""
        if cmd_name not in COMMANDS:
            return None
        module, help_text = COMMANDS[cmd_name]
        if ctx.resilient_parsing or _is_top_help(ctx.obj or []):
            return TyperCommand(cmd_name, help=help_text)
        group = import_module(module).app
        # As the whole command: plain help, nothing to install.
        group._add_completion = False
        group.rich_markup_mode = None
        command: Any = typer.main.get_command(group)
        command.name = cmd_name
        return command


def _is_top_help(words: list[str]) -> bool:
    return not words or words[0] in ("--help", "-h")


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="SteerLM: from human ratings to a language model that follows its dials.\n\n"
    "Example: steerlm run pipelines/recipes/demo.yaml",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(steerlm.__version__)
        raise typer.Exit


@app.callback()
def options(
    debug: bool = typer.Option(False, "--debug", help="Show tracebacks of errors."),
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Options that are given before the command."""


def run(argv: list[str] | None = None) -> None:
    """Entry point. Exit status: 0, 1 run-time failure, 2 bad input, 130 Ctrl-C, 143 terminated (state saved)."""
    sys.exit(call(sys.argv[1:] if argv is None else argv))


def call(argv: list[str]) -> int:
    """Run one command line and return its exit status."""
    debug = "--debug" in argv
    arguments = [a for a in argv if a != "--debug"]
    command: Any = typer.main.get_command(app)

    def execute() -> object:
        if any(UPSTREAM.match(argument.removeprefix("--set=")) for argument in arguments):
            import_module("steerlm.cli.upstream").refuse_upstream_options(arguments)
        if any(SCRIPT.fullmatch(argument) for argument in arguments[:2]):
            import_module("steerlm.cli.upstream").refuse_upstream_scripts(arguments)
        return command.main(args=arguments, prog_name="steerlm", standalone_mode=False, obj=arguments)

    return exit_status(execute, debug=debug)


def exit_status(execute: Callable[[], object], *, debug: bool = False) -> int:
    """Return the exit status of what a function does; every error is one line on stderr, with `debug` it is raised."""
    try:
        code = execute()
        if code == CTRL_C:  # typer turns KeyboardInterrupt into this status
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except TyperException as error:  # wrong usage: typer shows it with the command's usage line
        show = getattr(error, "show", None)
        show() if show else typer.echo(f"error: {error}", err=True)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("interrupted; run the same command again to resume", err=True)
        return CTRL_C
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except Exception as error:
        if debug:
            raise
        from steerlm.errors import SteerLMError

        known = isinstance(error, SteerLMError)
        text = str(error) if known else f"unexpected {type(error).__name__}: {error} (--debug shows where)"
        typer.echo(f"error: {text}", err=True)
        return error.exit_code if isinstance(error, SteerLMError) else 1
