# SPDX-License-Identifier: Apache-2.0
"""`steerlm store list|verify|gc`: maintain a store of artifacts."""

from typing import TYPE_CHECKING

import typer

from steerlm.cli.sizes import size

if TYPE_CHECKING:
    from steerlm.artifact import Store

app = typer.Typer(
    no_args_is_help=True,
    help="List a store's artifacts, verify their bytes, remove artifacts that nothing needs.\n\n"
    "Example: steerlm store list runs/store",
)

WHERE = typer.Argument("runs/store", help="A folder or s3://bucket/prefix.")


@app.command("list")
def list_(
    store: str = WHERE,
    stage: str | None = typer.Option(None, "--stage", help="Only this stage's, such as train_reward."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON lines."),
) -> None:
    """Print every key: stage, key, state, size, time, kind and the pipeline step that first ran it.

    Example: steerlm store list s3://steerlm/store --stage train_reward
    """
    import json

    from steerlm.inventory import list_entries

    for entry in list_entries(_open(store)):
        if stage not in (None, entry.stage):
            continue
        if as_json:
            fields = ("stage", "key", "state", "size", "finished", "kind", "label", "digest")
            typer.echo(json.dumps({name: getattr(entry, name) for name in fields}))
        else:
            typer.echo(
                f"{entry.stage:14} {entry.key:20} {entry.state:10} {size(entry.size):>10}"
                f"  {entry.finished:24} {entry.kind:10} {entry.label}".rstrip()
            )


@app.command()
def verify(store: str = WHERE) -> None:
    """Read every file of every finished artifact and compare it with its manifest. Fails if one differs.

    Example: steerlm store verify s3://steerlm/store
    """
    from tqdm import tqdm

    from steerlm.errors import StorageError
    from steerlm.inventory import list_entries, verify_entry

    opened = _open(store)
    finished = [entry for entry in list_entries(opened) if entry.state != "unfinished"]
    lines = [line for entry in tqdm(finished, unit="artifact", disable=None) for line in verify_entry(opened, entry)]
    for line in lines:
        typer.echo(line)
    if lines:
        raise StorageError(
            f"{opened.uri}: {len(lines)} files are damaged; `steerlm store gc` does not remove them, delete their "
            "folders and run the recipe again"
        )
    typer.echo(f"{opened.uri}: {len(finished)} artifacts are intact")


@app.command()
def gc(
    store: str = WHERE,
    keep: int | None = typer.Option(
        None, "--keep", min=1, help="Keep the newest so many of each stage, and everything they were made from."
    ),
    delete: bool = typer.Option(False, "--delete", help="Delete; without it, only print what would be deleted."),
) -> None:
    """Remove unfinished work and, with --keep, old artifacts. A stage whose unfinished work is removed starts over.

    Example: steerlm store gc runs/store --keep 3 --delete
    """
    from steerlm.inventory import list_entries, removable_entries, remove_entry

    opened = _open(store)
    freed = 0
    for entry in removable_entries(list_entries(opened), keep):
        action = "in use, kept"
        if remove_entry(opened, entry, delete=delete):
            action = "deleted" if delete else "would be deleted"
            freed += entry.size
        typer.echo(f"{entry.stage:14} {entry.key:20} {entry.state:10} {size(entry.size):>10}  {action}")
    typer.echo(f"{size(freed)} {'freed' if delete else 'would be freed by --delete'}")


def _open(uri: str) -> "Store":
    from steerlm.artifact import Store

    return Store(uri)
