"""`steerlm plan RECIPE`: what a recipe's trainings need, before anything is started."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from steerlm.cli.sizes import size

if TYPE_CHECKING:
    from steerlm.stages.planning import Planned

SAFE = 0.85
"""Share of a GPU's memory beyond which what is not counted may tell: context, communication buffers, fragments."""

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
    """Show layout, parameters, memory per GPU, tokens and FLOPs and storage of a recipe's trainings.

    Fails, saying why, if a layout cannot be or needs more memory than the profile's gpu_memory_gib.
    """
    import json

    from steerlm.errors import ConfigError
    from steerlm.recipe import load_recipe
    from steerlm.stages.planning import plan_recipe

    found = plan_recipe(
        load_recipe(recipe, profile, set_), _pairs("--model", map(str, model)), _pairs("--data", data), tokenizer
    )
    if as_json:
        typer.echo(json.dumps({name: one.values() for name, one in found.items()}, indent=2))
    for name, one in found.items() if not as_json else ():
        typer.echo("\n".join([f"{name}: {one.model}", *(f"  {key:16} {text}" for key, text in _lines(one)), ""]))
    too_large = [name for name, one in found.items() if one.fits is False]
    if too_large:
        raise ConfigError(
            f"{', '.join(too_large)}: more memory than a GPU has; lower micro_batch, set recompute, or raise tensor or "
            "pipeline (--set profile.layouts.SECTION.KEY=VALUE; docs/recipes.md, Choose a layout)"
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


def _lines(one: "Planned") -> list[tuple[str, str]]:
    layout, need, settings = one.layout, one.need, one.settings
    return [
        (
            "layout",
            f"{layout.nodes} {'nodes' if layout.nodes > 1 else 'node'} x {layout.devices}: tensor {layout.tensor} x "
            f"pipeline {layout.pipeline} x data {layout.data_parallel}; rows of at most "
            f"{layout.row_limit(settings.window):,} tokens, recompute {layout.recompute}, {settings.precision}",
        ),
        ("parameters", f"{need.parameters:,}; {need.parameters_per_process:,} on a GPU"),
        ("memory per GPU", _memory(one)),
        (
            "a step",
            f"{need.tokens_per_step:,.0f} tokens, {need.rows_per_replica:.1f} rows a replica, "
            f"{need.flops_per_step:.3g} FLOPs, {need.flops_per_process:.3g} a GPU",
        ),
        ("all steps", _whole(one)),
        (
            "real tokens",
            f"{need.real_token_share:.0%} of what is computed" if need.real_token_share else "not known without --data",
        ),
        (
            "storage",
            f"{size(need.storage_bytes)} at most: the model folder, {size(need.model_folder_bytes)}, and "
            f"{settings.keep + 2} checkpoints (keep {settings.keep}, the best, the one being written) of "
            f"{size(need.checkpoint_bytes)}",
        ),
    ]


def _memory(one: "Planned") -> str:
    memory = one.need.memory
    parts = ((name, getattr(memory, name)) for name in ("weights", "gradients", "optimizer", "activations", "logits"))
    text = f"{size(memory.total)}: " + ", ".join(f"{name} {size(held)}" for name, held in parts if held)
    if one.gpu_memory is None:
        return text
    share = memory.total / one.gpu_memory
    verdict = "DOES NOT FIT" if not one.fits else "hardly fits" if share > SAFE else "fits"
    return f"{text}; {verdict}, {share:.0%} of {size(one.gpu_memory)}"


def _whole(one: "Planned") -> str:
    steps, need = one.need.steps, one.need
    if steps is None:
        return f"epochs of the data: {one.settings.epochs:g}; their number is not known without --data"
    most = "at most " if one.settings.epochs and need.real_token_share is None else ""
    return f"{most}{steps:,} steps, {steps * need.tokens_per_step:.3g} tokens, {steps * need.flops_per_step:.3g} FLOPs"
