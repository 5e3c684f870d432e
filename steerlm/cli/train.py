# SPDX-License-Identifier: Apache-2.0
"""`steerlm train text|reward|sft RECIPE`: one training outside the pipeline, on files named on the command line."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

import typer

from steerlm.cli.progress import ProgressLine

if TYPE_CHECKING:
    from steerlm.pipeline.run_log import RunLog
    from steerlm.recipe import Profile

app = typer.Typer()

EPILOG = (
    "Example: steerlm train reward demo --model runs/base --data regression_train.jsonl"
    " --validation regression_val.jsonl --output runs/reward"
)


@app.command(epilog=EPILOG)
def train(
    objective: str = typer.Argument(..., help="text (plain text), reward (a reward model) or sft (conditioned SFT)."),
    recipe: str = typer.Argument(
        ..., help="A shipped recipe's name or a path; its section base.train, reward or sft is used."
    ),
    data: list[Path] = typer.Option(..., "--data", help="Training file (repeatable): texts, samples or conversations."),
    output: Path = typer.Option(..., "--output", help="Model folder to write; OUTPUT.work keeps checkpoints and logs."),
    model: Path | None = typer.Option(
        None, "--model", help="Model folder to start from; optional for text with a shape in the recipe."
    ),
    validation: list[Path] = typer.Option([], "--validation", help="Validation file (repeatable)."),
    tokenizer: Path | None = typer.Option(None, "--tokenizer", help="Tokenizer folder; default: the model's."),
    profile: str | None = typer.Option(None, "--profile", help="A shipped profile's name or a path."),
    set_: list[str] = typer.Option([], "--set", help="Override a setting: --set reward.max_steps=10 (repeatable)."),
    write_spec: Path | None = typer.Option(
        None,
        "--write-spec",
        help="Do not train: tokenize, write the worker's spec to this file and print its torchrun command.",
    ),
) -> None:
    """Train one model with a recipe's settings. Run the same command again to resume."""
    from steerlm.pipeline.keys import explain
    from steerlm.recipe import load_recipe
    from steerlm.trainjob.standalone import Reporting, TrainFiles, torchrun, train_standalone
    from steerlm.trainjob.standalone import write_spec as write

    files, resolved = TrainFiles(data, validation, model, tokenizer, output), load_recipe(recipe, profile, set_)
    if write_spec is not None:
        write(objective, resolved, files, write_spec, lambda line: typer.echo(line, err=True))
        typer.echo(torchrun(objective, resolved, write_spec.absolute()))
        return
    record = partial(recorded, f"train-{objective}", resolved.profile)
    with TrainProgress() as progress:
        metrics = train_standalone(objective, resolved, files, Reporting(progress, record, explain))
    for name, value in metrics.items():
        if name in ("steps", "exported_step", "tokens", "real_token_share") or name.count("/") == 1:
            typer.echo(f"{name:24} {value:.5g}")
    for attribute in [name.rpartition("/")[2] for name in metrics if name.startswith("validation/pearson/")]:
        shown = {k: metrics[f"validation/{k}/{attribute}"] for k in ("mse", "mean_predictor_mse", "pearson")}
        typer.echo(f"{attribute:24} " + "  ".join(f"{name} {value:.3f}" for name, value in shown.items()))
    typer.echo(f"model folder: {output}")


@contextmanager
def recorded(name: str, profile: "Profile", path: Path) -> "Iterator[RunLog]":
    """Open a new run log at `path`, which the profile's tracking follows as the MLflow run `name`."""
    from steerlm.artifact import Store
    from steerlm.pipeline.run_log import RunLog
    from steerlm.pipeline.tracking import recording

    path.unlink(missing_ok=True)
    with recording(name, path, profile.tracking, Store(profile.store).root):
        yield RunLog(path)


class TrainProgress:
    """Shows log lines of steps as one line that moves; other lines, and all lines outside a terminal, as they are."""

    def __init__(self) -> None:
        self.line = ProgressLine(sys.stderr)

    def __call__(self, text: str) -> None:
        """Show `step N/TOTAL ...` in place; print any other line."""
        if self.line.live and text.startswith("step "):
            self.line.show(text)
        else:
            self.line.end(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.line.end()
