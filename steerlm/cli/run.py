# SPDX-License-Identifier: Apache-2.0
"""`steerlm run RECIPE`: the whole pipeline on this machine."""

import sys
from typing import Any

import typer

app = typer.Typer()


@app.command()
def run(
    recipe: str = typer.Argument(..., help="A shipped recipe's name, such as demo, or a path to a .yaml."),
    profile: str | None = typer.Option(None, "--profile", help="A shipped profile's name or a path."),
    set_: list[str] = typer.Option([], "--set", help="Override a setting: --set sft.optimizer.lr=1e-5 (repeatable)."),
    store: str | None = typer.Option(None, "--store", help="Where artifacts are kept: a folder or s3://bucket/prefix."),
    stage: str | None = typer.Option(None, "--stage", help="Stop after this stage, such as train_reward."),
) -> None:
    """Run a recipe's pipeline: finished stages are found, unfinished ones go on, the others run.

    Example: steerlm run demo --set sft.optimizer.lr=1e-3
    """
    from dataclasses import replace

    from steerlm.pipeline.local import run_pipeline
    from steerlm.recipe import load_recipe

    overrides = [*set_, *([f"profile.store={store}"] if store else [])]
    resolved = load_recipe(recipe, profile, overrides)
    if stage:
        resolved = replace(resolved, recipe=resolved.recipe.until(stage))
    done = run_pipeline(resolved, Display())
    typer.echo(f"{len(done.outcomes)} steps in {done.seconds:.1f} s; store {done.store.uri}, run {done.folder}")
    for label in ("train_reward", "train_sft", "report"):
        found = [o for o in done.outcomes if o["label"] == label and "path" in o]
        if found:
            typer.echo(f"{label:18} {found[0]['path']}")


class Display:
    """A line per finished step; on a terminal, what runs at the moment below it, else a line now and then."""

    EVERY = 15.0

    def __init__(self) -> None:
        self.out: Any = sys.stdout
        self.live = self.out.isatty()
        self.said = 0.0

    def __call__(self, event: Any) -> None:
        kind, label = event["event"], event["label"]
        if kind == "outcome":
            self.said = 0.0
            seconds = f"{event['seconds']:7.1f} s" if event["what"] != "skipped" else " " * 9
            self.write(f"{label:18} {event['what']:8} {seconds}  {event['why']}\n")
        elif kind == "start" and self.live:
            self.write(f"{label:18} runs ...")
        elif kind == "progress" and (self.live or event["time"] - self.said >= self.EVERY):
            self.said = event["time"]
            self.write(f"{label:18} {event['text']}" + ("" if self.live else "\n"))

    def write(self, text: str) -> None:
        """Over the line that shows what runs, if there is a terminal."""
        from shutil import get_terminal_size

        if self.live:
            width = get_terminal_size().columns - 1
            text = "\r\x1b[K" + (text if text.endswith("\n") else text[:width])
        self.out.write(text)
        self.out.flush()
