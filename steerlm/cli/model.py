"""`steerlm model fetch|import|export|show`."""

from pathlib import Path

import typer

app = typer.Typer(
    no_args_is_help=True, help="Fetch, import, export and show models.\n\nExample: steerlm model show DIR"
)


@app.command()
def fetch(
    uri: str = typer.Argument(help="hf://org/name@revision, s3://bucket/prefix or a local folder."),
    folder: Path = typer.Argument(help="Where the model folder is made."),
) -> None:
    """Fetch a model: safetensors and tokenizer files only, resumable and verified.

    The hub's token comes from HF_TOKEN, the object store's keys from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.

    Example: steerlm model fetch hf://meta-llama/Llama-2-13b-hf models/llama-2-13b
    """
    from steerlm.models.fetch import fetch_model

    fetch_model(uri, folder)
    typer.echo(f"{folder}: complete")


@app.command("import")
def import_(
    folder: Path = typer.Argument(help="Hugging Face model folder."),
    checkpoint: Path = typer.Argument(help="Megatron distributed checkpoint to write."),
) -> None:
    """Convert a Hugging Face folder to a Megatron distributed checkpoint (weights only, for any layout).

    Example: steerlm model import models/llama-2-13b checkpoints/llama-2-13b
    """
    from steerlm.megatron.convert import import_hf

    import_hf(folder, checkpoint)
    typer.echo(f"{checkpoint}: complete")


@app.command()
def export(
    checkpoint: Path = typer.Argument(help="Megatron distributed checkpoint made by import."),
    folder: Path = typer.Argument(help="Hugging Face model folder to write."),
) -> None:
    """Convert a Megatron distributed checkpoint back to a Hugging Face folder, bit for bit.

    Example: steerlm model export checkpoints/llama-2-13b models/llama-2-13b-again
    """
    from steerlm.megatron.convert import export_hf

    export_hf(checkpoint, folder)
    typer.echo(f"{folder}: complete")


@app.command()
def show(folder: Path = typer.Argument(help="Hugging Face model folder.")) -> None:
    """Say what a model folder is: kind, size, attributes, metrics.

    Example: steerlm model show runs/demo/policy
    """
    import json

    from steerlm.models.folder import read_info
    from steerlm.models.shape import LlamaShape

    info, shape = read_info(folder), LlamaShape.from_folder(folder)
    schema = info.attributes
    outputs = len(schema.names) if schema and info.kind == "reward" else None
    typer.echo(f"kind        {info.kind}")
    typer.echo(f"parameters  {shape.parameters(outputs):,}")
    typer.echo(f"base        {info.base or '-'} (licence: {info.license or 'not stated'})")
    if schema:
        dials = ", ".join(f"{name} (default {schema.default(name)})" for name in schema.active)
        typer.echo(f"attributes  {schema.low}..{schema.high}: {dials}")
    if info.metrics:
        typer.echo(f"metrics     {json.dumps(info.metrics)}")
