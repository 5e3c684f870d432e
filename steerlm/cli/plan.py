# SPDX-License-Identifier: Apache-2.0
"""`steerlm plan RECIPE`: what a recipe's trainings need, before anything starts."""

from collections.abc import Sequence
from pathlib import Path

import typer

app = typer.Typer()

EPILOG = (
    "Example: steerlm plan steerlm-llama2; or, with the lengths of your data:"
    " steerlm plan helpsteer2-70b --data reward=data/train_reg.jsonl --tokenizer models/llama3"
)


@app.command(epilog=EPILOG)
def plan(
    recipe: str = typer.Argument(..., help="A shipped recipe's name or a path to a .yaml."),
    profile: str | None = typer.Option(None, "--profile", help="A shipped profile's name or a path."),
    set_: list[str] = typer.Option([], "--set", help="Override a setting (repeatable)."),
    model: list[Path] = typer.Option(
        [],
        "--model",
        help="base=PATH or reward=PATH: a model folder or its config.json, in place of the recipe's model. "
        "Models of the hub need none: their config.json is read there.",
    ),
    data: list[str] = typer.Option(
        [],
        "--data",
        help="base=FILE, reward=FILE or sft=FILE: plan with the lengths of its samples; "
        "without it, every sample counts as a full window.",
    ),
    tokenizer: Path | None = typer.Option(None, "--tokenizer", help="Tokenizer folder for --data."),
    gpu: str | None = typer.Option(
        None, "--gpu", help="GPU type, such as h100, in place of the profile's; times are estimated for it."
    ),
    disk_rate: float = typer.Option(
        5.0, "--disk-rate", min=0.001, help="GB/s at which a node writes checkpoints, to estimate the time of a save."
    ),
    mfu: float = typer.Option(
        0.4, "--mfu", min=0.001, max=1.0, help="Share of the GPU's peak FLOP/s to assume for the hours of a training."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Show memory, FLOPs, storage, checkpoints and estimated times of a recipe's trainings, also on fewer nodes.

    Fails with the reason if a layout is invalid or needs more memory than the profile's GPU has.
    """
    import json

    from steerlm.cli.plan_text import text
    from steerlm.errors import ConfigError
    from steerlm.recipe import load_recipe
    from steerlm.trainjob.planning import plan_recipe

    plans = plan_recipe(
        load_recipe(recipe, profile, set_),
        _pairs("--model", [str(path) for path in model]),
        _pairs("--data", data),
        tokenizer,
        gpu,
        disk_rate * 1e9,
        mfu,
    )
    if as_json:
        typer.echo(json.dumps({name: plan.to_json() for name, plan in plans.items()}, indent=2))
    else:
        typer.echo(text(plans))
    too_large = [name for name, plan in plans.items() if plan.fits is False]
    if too_large:
        raise ConfigError(
            f"{', '.join(too_large)}: more memory than a GPU has; lower micro_batch, raise tensor (with "
            "sequence_parallel: true) or pipeline, or set recompute: full "
            "(--set profile.layouts.SECTION.KEY=VALUE; docs/recipes.md, Choose a layout)"
        )


def _pairs(option: str, values: Sequence[str]) -> dict[str, Path]:
    """Parse the NAME=PATH values of an option."""
    from steerlm.errors import InputError

    pairs = {}
    for text in values:
        name, equals, path = text.partition("=")
        if not equals or name not in ("base", "reward", "sft"):
            raise InputError(f"{option} {text}: expected base=PATH, reward=PATH or sft=PATH")
        pairs[name] = Path(path)
    return pairs
