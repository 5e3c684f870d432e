"""`steerlm plan RECIPE`: what a recipe's trainings need, before anything is started."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from steerlm.stages.planning import Planned

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
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Show layout, parameters, memory per GPU, tokens and FLOPs per step and storage of a recipe's trainings.

    Fails, saying why, if a layout cannot be.
    """
    import json

    from steerlm.recipe import load_recipe
    from steerlm.stages.planning import plan_recipe

    found = plan_recipe(
        load_recipe(recipe, profile, set_), _pairs("--model", map(str, model)), _pairs("--data", data), tokenizer
    )
    if as_json:
        typer.echo(json.dumps({name: one.values() for name, one in found.items()}, indent=2))
        return
    for name, one in found.items():
        typer.echo("\n".join([f"{name}: {one.model}", *(f"  {key:16} {text}" for key, text in _lines(one)), ""]))


def _pairs(option: str, given: Any) -> dict[str, Path]:
    from steerlm.errors import InputError

    pairs = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or name not in ("base", "reward", "sft"):
            raise InputError(f"{option} {text}: expected base=PATH, reward=PATH or sft=PATH")
        pairs[name] = Path(path)
    return pairs


def _lines(one: "Planned") -> list[tuple[str, str]]:
    layout, need, memory = one.layout, one.need, one.need.memory
    share = f"{need.real_token_share:.0%} of what is computed" if need.real_token_share else "not known without --data"
    parts = {n: getattr(memory, n) for n in ("weights", "gradients", "optimizer", "activations", "logits")}
    return [
        (
            "layout",
            f"{layout.nodes} nodes x {layout.devices}: tensor {layout.tensor} x pipeline {layout.pipeline} x "
            f"data {layout.data_parallel}; rows of at most {layout.row_limit(one.settings.window):,} tokens, "
            f"recompute {layout.recompute}, {one.settings.precision}",
        ),
        ("parameters", f"{need.parameters:,}; {need.parameters_per_process:,} on a GPU"),
        (
            "memory per GPU",
            f"{_gib(memory.total)}: " + ", ".join(f"{name} {_gib(size)}" for name, size in parts.items()),
        ),
        (
            "a step",
            f"{need.tokens_per_step:,.0f} tokens, {need.rows_per_replica:.1f} rows a replica, "
            f"{need.flops_per_step:.3g} FLOPs, {need.flops_per_process:.3g} a GPU",
        ),
        ("real tokens", share),
        ("storage", f"{_gib(need.checkpoint_bytes)} a checkpoint, {_gib(need.model_folder_bytes)} the model folder"),
    ]


def _gib(size: float) -> str:
    return f"{size / 2**30:,.1f} GiB" if size >= 2**29 else f"{size / 2**20:,.1f} MiB"
