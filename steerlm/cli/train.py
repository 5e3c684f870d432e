# SPDX-License-Identifier: Apache-2.0
"""`steerlm train text|reward|sft RECIPE`: one training outside the pipeline, with inputs that are named."""

from pathlib import Path
from typing import Literal

import typer

app = typer.Typer()

EPILOG = (
    "Example: steerlm train reward demo --model runs/base --data regression_train.jsonl"
    " --validation regression_val.jsonl --output runs/reward"
)


@app.command(epilog=EPILOG)
def train(
    objective: Literal["text", "reward", "sft"] = typer.Argument(
        ..., help="Plain text, reward model or conditioned SFT."
    ),
    recipe: str = typer.Argument(..., help="A shipped recipe's name or a path: its section base.train, reward or sft."),
    data: list[Path] = typer.Option(..., "--data", help="Training file (repeatable): texts, samples or conversations."),
    output: Path = typer.Option(..., "--output", help="Model folder to make; OUTPUT.work keeps checkpoints and logs."),
    model: Path | None = typer.Option(None, "--model", help="Model folder to start from; text may start from nothing."),
    validation: list[Path] = typer.Option([], "--validation", help="Validation file (repeatable)."),
    tokenizer: Path | None = typer.Option(None, "--tokenizer", help="Tokenizer folder; default: the model's."),
    profile: str | None = typer.Option(None, "--profile", help="A shipped profile's name or a path."),
    set_: list[str] = typer.Option([], "--set", help="Override a setting: --set reward.max_steps=10 (repeatable)."),
    write_spec: Path | None = typer.Option(
        None,
        "--write-spec",
        help="Train nothing: tokenize, write the worker's spec there and print its torchrun command.",
    ),
) -> None:
    """Train one model with a recipe's settings. Stopped and started again, it goes on where it was."""
    from steerlm.recipe import load_recipe
    from steerlm.trainjob.standalone import Files, torchrun, train_alone
    from steerlm.trainjob.standalone import write_spec as write

    files, resolved = Files(data, validation, model, tokenizer, output), load_recipe(recipe, profile, set_)
    if write_spec is not None:
        write(objective, resolved, files, write_spec, lambda line: typer.echo(line, err=True))
        typer.echo(torchrun(objective, resolved, write_spec.absolute()))
        return
    metrics = train_alone(objective, resolved, files, Bar())
    for name, value in metrics.items():
        if name in ("steps", "exported_step", "tokens", "real_token_share") or name.count("/") == 1:
            typer.echo(f"{name:24} {value:.5g}")
    for attribute in [name.rpartition("/")[2] for name in metrics if name.startswith("validation/pearson/")]:
        shown = {k: metrics[f"validation/{k}/{attribute}"] for k in ("mse", "mean_predictor_mse", "pearson")}
        typer.echo(f"{attribute:24} " + "  ".join(f"{name} {value:.3f}" for name, value in shown.items()))
    typer.echo(f"model folder: {output}")


class Bar:
    """A progress bar of the lines that tell of a step; elsewhere than on a terminal, the lines."""

    def __init__(self) -> None:
        import sys

        from tqdm import tqdm

        self.bar = tqdm(unit="step") if sys.stderr.isatty() else None

    def __call__(self, text: str) -> None:
        words = text.split()
        if self.bar is None or len(words) < 2 or words[0] != "step":
            typer.echo(text, err=True)
            return
        done, _, total = words[1].partition("/")
        self.bar.total = int(total)
        self.bar.n = int(done)
        self.bar.set_postfix_str(" ".join(words[2:]))
