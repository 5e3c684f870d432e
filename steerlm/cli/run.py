# SPDX-License-Identifier: Apache-2.0
"""`steerlm run RECIPE`: the whole pipeline on this machine."""

import sys
from collections.abc import Mapping
from typing import IO, Any

import typer

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
    again: list[str] = typer.Option(
        [], "--again", help="Make this stage's artifact again, such as train_sft, and replace it (repeatable)."
    ),
) -> None:
    """Run a recipe's pipeline: finished stages are reused, interrupted ones resume, the others run.

    Example: steerlm run demo --set sft.optimizer.lr=1e-3
    """
    from dataclasses import replace

    from steerlm.pipeline.local import run_pipeline
    from steerlm.recipe import RunOptions, load_recipe
    from steerlm.stages.registry import STEPS

    overrides = [*set_, *([f"profile.store={store}"] if store else [])]
    resolved = replace(load_recipe(recipe, profile, overrides), options=RunOptions(until=stage, again=tuple(again)))
    result = run_pipeline(resolved, Display())
    typer.echo(f"{len(result.outcomes)} steps in {result.seconds:.1f} s; store {result.store.uri}, run {result.folder}")
    for outcome in result.outcomes:
        if STEPS[outcome["label"]].show_path and "path" in outcome:
            typer.echo(f"{outcome['label']:18} {outcome['path']}")


class Display:
    """Prints a line per finished step; on a terminal the running step below it, else a progress line now and then."""

    EVERY = 15.0
    """Seconds between progress lines where the output is not a terminal."""

    def __init__(self, out: IO[str] | None = None, *, live: bool | None = None) -> None:
        self.out = sys.stdout if out is None else out
        self.live = self.out.isatty() if live is None else live
        self._last_progress = 0.0

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Show an event of the run log: the start, progress or outcome of a step; ignore all others."""
        kind, label = event["event"], event["label"]
        if kind == "outcome":
            self._last_progress = 0.0
            seconds = f"{event['seconds']:7.1f} s" if event["status"] != "skipped" else " " * 9
            self._write(f"{label:18} {event['status']:8} {seconds}  {event['reason']}\n")
        elif kind == "start" and self.live:
            self._write(f"{label:18} runs ...")
        elif kind == "progress" and (self.live or event["time"] - self._last_progress >= self.EVERY):
            self._last_progress = event["time"]
            self._write(f"{label:18} {event['text']}" + ("" if self.live else "\n"))

    def _write(self, text: str) -> None:
        """Write over the line of the running step, if the output is a terminal."""
        from shutil import get_terminal_size

        if self.live:
            width = get_terminal_size().columns - 1
            text = "\r\x1b[K" + (text if text.endswith("\n") else text[:width])
        self.out.write(text)
        self.out.flush()
