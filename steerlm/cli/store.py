# SPDX-License-Identifier: Apache-2.0
"""`steerlm store list|verify|rm|gc`: maintain a store of artifacts."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import typer

from steerlm.cli.sizes import size

if TYPE_CHECKING:
    from steerlm.artifact import Store
    from steerlm.inventory import StoreEntry

app = typer.Typer(
    no_args_is_help=True,
    help="List a store's artifacts, verify their bytes, remove chosen artifacts or those that nothing needs.\n\n"
    "Example: steerlm store list runs/store",
)

WHERE = typer.Argument("runs/store", help="A folder or s3://bucket/prefix.")
DELETE = typer.Option(False, "--delete", help="Delete; without it, only print what would be deleted.")


@app.command("list")
def list_(
    store: str = WHERE,
    stage: str | None = typer.Option(None, "--stage", help="Only this stage's or step's, such as train_reward."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON lines."),
) -> None:
    """Print every key. A line has stage, key, state, size, time, kind and the pipeline step that first ran it.

    Example: steerlm store list s3://steerlm/store --stage train_reward
    """
    import json

    from steerlm.inventory import list_entries

    entries = list_entries(_open(store))
    if stage is not None:
        entries = _of_stage(entries, stage)
    if not entries:
        typer.echo(f"{store}: no artifacts" + (f" of {stage}" if stage else ""), err=True)
    for entry in entries:
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
    """Compare every file with its manifest. Reads all finished artifacts; fails if one differs.

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
            f"{opened.uri}: {len(lines)} files are damaged; remove their artifacts with `steerlm store rm`, "
            "and run the recipe again"
        )
    typer.echo(f"{opened.uri}: {len(finished)} artifacts are intact")


@app.command()
def rm(
    store: str = typer.Argument(..., metavar="STORE", help="A folder or s3://bucket/prefix."),
    names: list[str] = typer.Argument(
        ..., metavar="NAME", help="STAGE/KEY or KEY, as list prints them, or STAGE for all of its keys."
    ),
    dependents: bool = typer.Option(
        False, "--dependents", help="Also remove what was made from them; without it, nothing is removed then."
    ),
    delete: bool = DELETE,
) -> None:
    """Remove artifacts by name. What is removed is made again by the next run that needs it.

    Example: steerlm store rm runs/store train_sft/115b1c5b9c2c70c04095 --delete
    """
    from steerlm.errors import InputError
    from steerlm.inventory import dependents as made_from
    from steerlm.inventory import find_entries, list_entries

    opened = _open(store)
    entries = list_entries(opened)
    chosen = find_entries(entries, names)
    made = made_from(entries, chosen)
    if made and not dependents:
        raise InputError(
            f"{', '.join(entry.name for entry in made)}: made from what is to be removed, and would be made again "
            "after it; name them too, or add --dependents"
        )
    _remove(opened, [*made, *chosen], delete=delete)


@app.command()
def gc(
    store: str = WHERE,
    keep: int | None = typer.Option(
        None, "--keep", min=1, help="Keep the newest so many of each stage, and everything they were made from."
    ),
    runs: int | None = typer.Option(
        None, "--runs", min=0, help="Also remove the folders of runs, with their logs, except the newest so many."
    ),
    delete: bool = DELETE,
) -> None:
    """Remove unfinished work and, with --keep, old artifacts. A stage whose unfinished work is removed starts over.

    Example: steerlm store gc runs/store --keep 3 --runs 10 --delete
    """
    from steerlm.inventory import list_entries, old_run_folders, removable_entries, remove_run_folder

    opened = _open(store)
    entries = list_entries(opened)
    for folder in old_run_folders(opened, runs) if runs is not None else ():
        typer.echo(f"{'runs':14} {folder.name}  {_action(remove_run_folder(folder, delete=delete), delete)}")
    _remove(opened, removable_entries(entries, keep), delete=delete)


def _of_stage(entries: "list[StoreEntry]", stage: str) -> "list[StoreEntry]":
    """Return a stage's or step's entries. Raises `InputError` for a name that neither has."""
    from steerlm.errors import InputError, nearest
    from steerlm.stages.registry import STEPS

    known = {*STEPS, *(step.stage for step in STEPS.values()), *(entry.stage for entry in entries)}
    if stage not in known:
        raise InputError(f"--stage {stage}: no such stage{nearest(stage, sorted(known))}")
    return [entry for entry in entries if stage in (entry.stage, entry.label)]


def _remove(store: "Store", entries: "Iterable[StoreEntry]", *, delete: bool) -> None:
    """Remove the entries, or say what would be removed."""
    from steerlm.inventory import remove_entry

    freed = 0
    for entry in entries:
        unused = remove_entry(store, entry, delete=delete)
        freed += entry.size if unused else 0
        typer.echo(
            f"{entry.stage:14} {entry.key:20} {entry.state:10} {size(entry.size):>10}  {_action(unused, delete)}"
        )
    typer.echo(f"{size(freed)} {'freed' if delete else 'would be freed by --delete'}")


def _action(unused: bool, delete: bool) -> str:
    if not unused:
        return "in use, kept"
    return "deleted" if delete else "would be deleted"


def _open(uri: str) -> "Store":
    from steerlm.artifact import Store

    return Store(uri)
