# SPDX-License-Identifier: Apache-2.0
"""`steerlm run RECIPE`: the whole pipeline, on this machine or on a cluster."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import typer

from steerlm.cli.progress import ProgressLine

if TYPE_CHECKING:
    from steerlm.recipe import ResolvedRecipe

app = typer.Typer()


@app.command()
def run(
    recipe: str = typer.Argument(..., help="A shipped recipe's name, such as demo, or a path to a .yaml."),
    profile: str | None = typer.Option(None, "--profile", help="A shipped profile's name or a path."),
    set_: list[str] = typer.Option([], "--set", help="Override a setting: --set sft.optimizer.lr=1e-5 (repeatable)."),
    store: str | None = typer.Option(None, "--store", help="Where artifacts are kept: a folder or s3://bucket/prefix."),
    stage: str | None = typer.Option(
        None, "--stage", help="Run only this stage, such as train_reward, and those it depends on."
    ),
    output: Path | None = typer.Option(
        None, "--output", help="Folder for links to the models and the report by name; default: runs/RECIPE."
    ),
    again: list[str] = typer.Option(
        [], "--again", help="Make this stage's artifact again, such as train_sft, and replace it (repeatable)."
    ),
    detach: bool = typer.Option(False, "--detach", help="On a cluster: submit the run and return."),
) -> None:
    """Run a recipe's pipeline: finished stages are reused, interrupted ones resume, the others run.

    With a profile of a cluster a launcher runs it there, and this command shows the launcher's log; Ctrl-C cancels the
    run, and the same command resumes it.

    Example: steerlm run demo --set sft.optimizer.lr=1e-3
    """
    from dataclasses import replace

    from steerlm.pipeline.submit import is_submitted
    from steerlm.recipe import RunOptions, load_recipe

    overrides = [*set_, *([f"profile.store={store}"] if store else [])]
    resolved = replace(load_recipe(recipe, profile, overrides), options=RunOptions(until=stage, again=tuple(again)))
    if is_submitted(resolved.profile):
        _submit(resolved, output, detach=detach)
        return
    if detach:
        raise typer.BadParameter("only a run on a cluster goes on without this command")
    run_and_show(resolved, output or Path("runs") / resolved.recipe.folder_name)


def _submit(resolved: "ResolvedRecipe", output: Path | None, *, detach: bool) -> None:
    """Run a pipeline on a cluster and show what its launcher prints."""
    from steerlm.pipeline.submit import PipelineSubmission

    if output is not None:
        raise typer.BadParameter("--output makes links here; a run on a cluster leaves its files in the store")
    run = PipelineSubmission(resolved)
    namespace = run.settings.namespace
    typer.echo(f"{'submitted' if run.submit() else 'attached to'} {run.name} in namespace {namespace}")
    typer.echo(f"its log: kubectl -n {namespace} logs -f job/{run.name}")
    if detach:
        typer.echo(f"the same command attaches to it; to cancel it: kubectl -n {namespace} delete job {run.name}")
        return
    run.follow(typer.echo)


def run_and_show(resolved: "ResolvedRecipe", output: Path | None) -> None:
    """Run a pipeline here and show its progress and results; link them by name in `output`, if it is given.

    Raises:
        SteerLMError: What `run_pipeline` raises.
    """
    from steerlm.pipeline.local import run_pipeline
    from steerlm.pipeline.results import Results, fetch_commands, link, next_steps

    result = run_pipeline(resolved, Display())
    results = Results.of(result)
    steps = next_steps(results, link(results, output)) if output else fetch_commands(results)
    for lines in (results.lines(), steps):
        typer.echo("\n".join(["", *lines]) if lines else "", nl=bool(lines))
    number = len(results.artifacts)
    typer.echo(f"\n{number} stage{'' if number == 1 else 's'} in {result.seconds:.1f} s; store {result.store.uri}")
    typer.echo(f"run {result.folder}")


class Display:
    """Prints a line per finished step; on a terminal the running step below it, else a progress line now and then."""

    def __init__(self, out: IO[str] | None = None, *, live: bool | None = None) -> None:
        self.line = ProgressLine(sys.stdout if out is None else out, live=live)
        self._steps = self._ended = 0

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Show an event of the run log: the start, progress or outcome of a step; ignore all others."""
        kind, label = event["event"], event["label"]
        if kind == "plan":
            self._steps = len(event["steps"])
        elif kind == "outcome":
            skipped = event["status"] == "skipped"
            seconds = " " * 9 if skipped else f"{event['seconds']:7.1f} s"
            number = self._number(skipped=skipped)
            self._ended += not skipped
            self.line.end(f"{number}{label:18} {event['status']:8} {seconds}  {event['reason']}".rstrip())
        elif kind == "start" and self.line.live:
            self.line.show("runs ...", head=f"{self._number()}{label}  ", now=event["time"])
        elif kind == "progress":
            self.line.show(event["text"], head=f"{self._number()}{label}  ", now=event["time"])
        elif kind == "note":
            self.line.note(f"{self._number()}{label}  {event['text']}")

    def _number(self, *, skipped: bool = False) -> str:
        """Return `[3/8] `: which of the run's steps it is; blank for one that does not count."""
        number = f"[{self._ended + 1}/{self._steps}] " if self._steps else ""
        return " " * len(number) if skipped else number
