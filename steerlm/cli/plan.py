# SPDX-License-Identifier: Apache-2.0
"""`steerlm plan RECIPE`: what a recipe's trainings need, before anything is started."""

from pathlib import Path
from typing import Any

import typer

app = typer.Typer()

EPILOG = (
    "Example: steerlm plan steerlm-llama2; or, with the data that is there:"
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
        help="base=DIR or reward=DIR: a fetched model's folder, for a model whose shape is not known by its name.",
    ),
    data: list[str] = typer.Option(
        [],
        "--data",
        help="base=FILE, reward=FILE or sft=FILE: its lengths say how rows "
        "will be filled; without, every sample counts as a full window.",
    ),
    tokenizer: Path | None = typer.Option(None, "--tokenizer", help="Tokenizer folder for --data."),
    gpu: str | None = typer.Option(
        None, "--gpu", help="GPU type in place of the profile's, such as h100: times are estimated for it."
    ),
    disk_rate: float = typer.Option(
        5.0, "--disk-rate", min=0.001, help="GB/s at which a node writes checkpoints, for the time of a save."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Show memory, FLOPs, storage, checkpoints and estimated times of a recipe's trainings, also on fewer nodes.

    Fails, saying why, if a layout cannot be or needs more memory than the profile's GPU has.
    """
    import json

    from steerlm.cli.plan_text import text
    from steerlm.errors import ConfigError
    from steerlm.recipe import load_recipe
    from steerlm.trainjob.planning import plan_recipe

    found = plan_recipe(
        load_recipe(recipe, profile, set_),
        _pairs("--model", map(str, model)),
        _pairs("--data", data),
        tokenizer,
        gpu,
        disk_rate * 1e9,
    )
    typer.echo(json.dumps({name: one.values() for name, one in found.items()}, indent=2) if as_json else text(found))
    too_large = [name for name, one in found.items() if one.fits is False]
    if too_large:
        raise ConfigError(
            f"{', '.join(too_large)}: more memory than a GPU has; lower micro_batch, raise tensor (with "
            "sequence_parallel: true) or pipeline, or set recompute: full "
            "(--set profile.layouts.SECTION.KEY=VALUE; docs/recipes.md, Choose a layout)"
        )


def _pairs(option: str, given: Any) -> dict[str, Path]:
    from steerlm.errors import InputError

    pairs = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or name not in ("base", "reward", "sft"):
            raise InputError(f"{option} {text}: expected base=PATH, reward=PATH or sft=PATH")
        pairs[name] = Path(path)
    return pairs
