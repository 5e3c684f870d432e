# SPDX-License-Identifier: Apache-2.0
"""`steerlm store list|verify|gc`: look after a store of artifacts."""

from typing import TYPE_CHECKING

import typer

from steerlm.cli.sizes import size

if TYPE_CHECKING:
    from steerlm.artifact import Store

app = typer.Typer(
    no_args_is_help=True,
    help="List a store's artifacts, verify their bytes, clear away what nothing needs.\n\n"
    "Example: steerlm store list runs/store",
)

WHERE = typer.Argument("runs/store", help="A folder or s3://bucket/prefix.")


@app.command("list")
def list_(
    store: str = WHERE,
    stage: str | None = typer.Option(None, "--stage", help="Only this stage's, such as train_reward."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON lines."),
) -> None:
    """Print every key: stage, key, state, size, when it was made, what it is, the step that asked for it.

    Example: steerlm store list s3://steerlm/store --stage train_reward
    """
    import json

    from steerlm.inventory import entries

    for entry in entries(_open(store)):
        if stage not in (None, entry.stage):
            continue
        if as_json:
            shown = ("stage", "key", "state", "size", "finished", "kind", "label", "digest")
            typer.echo(json.dumps({name: getattr(entry, name) for name in shown}))
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
    from steerlm.inventory import entries, problems

    opened = _open(store)
    finished = [entry for entry in entries(opened) if entry.state != "unfinished"]
    told = [line for entry in tqdm(finished, unit="artifact", disable=None) for line in problems(opened, entry)]
    for line in told:
        typer.echo(line)
    if told:
        raise StorageError(f"{opened.uri}: {len(told)} files are damaged; `steerlm store gc` does not remove them, "
                           "delete their folders and run the recipe again")  # fmt: skip
    typer.echo(f"{opened.uri}: {len(finished)} artifacts are whole")


@app.command()
def gc(
    store: str = WHERE,
    keep: int | None = typer.Option(
        None, "--keep", min=1, help="Of each stage keep the newest so many, and all that those were made from."
    ),
    delete: bool = typer.Option(False, "--delete", help="Delete; without it, only say what would go."),
) -> None:
    """Clear away unfinished work and, with --keep, old artifacts. An unfinished stage that is gone starts anew.

    Example: steerlm store gc runs/store --keep 3 --delete
    """
    from steerlm.inventory import entries, garbage, remove

    opened = _open(store)
    freed = 0
    for entry in garbage(entries(opened), keep):
        what = "in use, left"
        if remove(opened, entry, delete=delete):
            what = "deleted" if delete else "would go"
        freed += entry.size if what != "in use, left" else 0
        typer.echo(f"{entry.stage:14} {entry.key:20} {entry.state:10} {size(entry.size):>10}  {what}")
    typer.echo(f"{size(freed)} {'freed' if delete else 'would be freed; --delete does it'}")


def _open(uri: str) -> "Store":
    from steerlm.artifact import Store

    return Store(uri)
