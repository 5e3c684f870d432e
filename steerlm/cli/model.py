# SPDX-License-Identifier: Apache-2.0
"""`steerlm model fetch|import|export|show`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from steerlm.training.layout import LayoutSettings

app = typer.Typer(
    no_args_is_help=True, help="Fetch, import, export and show models.\n\nExample: steerlm model show DIR"
)
TENSOR = typer.Option(1, min=1, help="Tensor parallel size: processes that split each layer (started by torchrun).")
PIPELINE = typer.Option(1, min=1, help="Pipeline parallel size: processes that split the layers (started by torchrun).")


@app.command()
def fetch(
    uri: str = typer.Argument(
        help="hf://org/name@revision, s3://bucket/prefix, s3://bucket/store/STAGE/KEY/KIND@sha256:DIGEST or a local "
        "folder."
    ),
    folder: Path = typer.Argument(help="Model folder to write."),
) -> None:
    """Fetch a model into a folder. Safetensors and tokenizer files only, resumable and verified.

    With a digest, as `steerlm store list --json` prints it, any other artifact of a store is refused. Processes that
    fetch into one folder take turns: the second finds the model there.

    The hub's token comes from HF_TOKEN, the object store's keys from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.

    Example: steerlm model fetch hf://meta-llama/Llama-2-13b-hf models/llama-2-13b
    """
    from steerlm import locks
    from steerlm.models.fetch import fetch_model

    def waiting(holder: str) -> None:
        typer.echo(f"{folder}: waiting for {holder}, which fetches it", err=True)

    folder.parent.mkdir(parents=True, exist_ok=True)
    with locks.hold(folder.with_name(f".{folder.name}.lock"), waiting) as held:
        fetch_model(uri, folder)
        held.retire()
    typer.echo(f"{folder}: complete")


@app.command("import")
def import_(
    folder: Path = typer.Argument(help="Hugging Face model folder."),
    checkpoint: Path = typer.Argument(help="Megatron distributed checkpoint to write."),
    tensor: int = TENSOR,
    pipeline: int = PIPELINE,
) -> None:
    """Convert a model folder to a Megatron checkpoint. It has the weights only and fits any layout.

    Each process holds its part: a model that is too large for one process is converted by several.

    Example: steerlm model import models/llama-2-13b checkpoints/llama-2-13b
    """
    layout = _layout("import", folder, checkpoint, tensor, pipeline)
    _convert().import_hf(folder, checkpoint, layout)
    _finish(checkpoint)


@app.command()
def export(
    checkpoint: Path = typer.Argument(help="Megatron distributed checkpoint, made by import or by training."),
    folder: Path = typer.Argument(help="Hugging Face model folder to write."),
    tensor: int = TENSOR,
    pipeline: int = PIPELINE,
) -> None:
    """Convert a Megatron checkpoint to a model folder, bit for bit.

    Example: steerlm model export checkpoints/llama-2-13b models/llama-2-13b-again
    """
    layout = _layout("export", checkpoint, folder, tensor, pipeline)
    _convert().export_hf(checkpoint, folder, layout)
    _finish(folder)


@app.command()
def show(folder: Path = typer.Argument(help="Hugging Face model folder.")) -> None:
    """Show a model folder: kind, family, size, attributes, metrics.

    Example: steerlm model show runs/demo/policy
    """
    import json

    from steerlm.models.folder import read_info
    from steerlm.models.shape import ModelShape

    info, shape = read_info(folder), ModelShape.from_folder(folder)
    schema = info.attributes
    outputs = len(schema.names) if schema and info.kind == "reward" else None
    typer.echo(f"kind        {info.kind}")
    typer.echo(f"family      {shape.model_type}")
    typer.echo(f"parameters  {shape.parameters(outputs):,}")
    typer.echo(f"window      {info.window or shape.max_position_embeddings} tokens")
    typer.echo(f"base        {info.base or '-'} (license: {info.license or 'not stated'})")
    if schema:
        attributes = ", ".join(f"{name} (default {schema.default(name)})" for name in schema.active)
        typer.echo(f"attributes  {schema.low}..{schema.high}: {attributes}")
        if untrained := [name for name in schema.names if name not in schema.active]:
            typer.echo(f"untrained   {', '.join(untrained)}")
    for title, values in (("data", info.data), ("metrics", info.metrics)):
        if values:
            typer.echo(f"{title:<11} {json.dumps(values)}")


def _layout(command: str, source: Path, target: Path, tensor: int, pipeline: int) -> "LayoutSettings":
    from steerlm.errors import InputError
    from steerlm.training.layout import LayoutSettings

    processes = tensor * pipeline
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started != processes:
        raise InputError(
            f"--tensor {tensor} --pipeline {pipeline} needs {processes} processes, {started} started: "
            f"torchrun --nproc-per-node {processes} -m steerlm.cli model {command} {source} {target} "
            f"--tensor {tensor} --pipeline {pipeline}"
        )
    return LayoutSettings(devices=processes, tensor=tensor, pipeline=pipeline)


def _convert() -> Any:
    from steerlm.errors import InputError

    try:
        from steerlm.megatron import convert
    except ImportError as error:
        raise InputError(f"conversion needs {error.name}: pip install 'steerlm[train]'") from None
    return convert


def _finish(folder: Path) -> None:
    from steerlm.megatron.parallel import finish

    finish()
    if os.environ.get("RANK", "0") == "0":
        typer.echo(f"{folder}: complete")
