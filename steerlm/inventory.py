# SPDX-License-Identifier: Apache-2.0
"""List the artifacts of a store, verify every byte, remove artifacts that nothing needs."""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from steerlm import locks
from steerlm.artifact import COMPLETE, KEY, LOCK, MANIFEST, RUNS, Manifest, Store
from steerlm.checksums import sha256_file
from steerlm.errors import InputError, StorageError, nearest


@dataclass(frozen=True, slots=True)
class StoreEntry:
    """One key of a store.

    `size`: bytes of all its files. `inputs`: digests of the artifacts it was made from. `label`: the pipeline step that
    first ran it, such as `train_baseline` of the stage `train_sft`; empty if it is not recorded.
    """

    stage: str
    key: str
    state: Literal["complete", "unfinished", "unreadable"]
    size: int
    label: str = ""
    kind: str = ""
    digest: str = ""
    finished: str = ""
    inputs: tuple[str, ...] = ()
    manifest: Manifest | None = None

    @property
    def name(self) -> str:
        """Path below the store: `STAGE/KEY`."""
        return f"{self.stage}/{self.key}"


def list_entries(store: Store) -> list[StoreEntry]:
    """Return every key, sorted by stage, the newest first.

    Raises:
        InputError: The store does not exist.
        StorageError: The store cannot be reached.
    """
    files = _remote_files(store) if store.remote else _local_files(store)
    sizes: dict[str, dict[str, int]] = {}
    for name, size in files:
        stage, _, rest = name.partition("/")
        key, _, below = rest.partition("/")
        if below:
            sizes.setdefault(f"{stage}/{key}", {})[below] = size
    entries = [_entry(store, name, inside) for name, inside in sizes.items() if {KEY, MANIFEST, COMPLETE} & set(inside)]
    return sorted(sorted(entries, key=lambda e: e.finished, reverse=True), key=lambda e: e.stage)


def verify_entry(store: Store, entry: StoreEntry) -> list[str]:
    """Read all files of a complete entry and return a line for each that is missing or differs from its manifest."""
    if entry.manifest is None:
        return [f"{entry.name}: {MANIFEST} cannot be read"]
    problems = []
    if entry.manifest.content.digest() != entry.manifest.digest:
        problems.append(f"{entry.name}/{MANIFEST}: its digest does not match its content")
    for name, expected in entry.manifest.content.files.items():
        path = f"{entry.name}/{entry.kind}/{name}"
        actual = _sha256(store, path)
        if actual is None:
            problems.append(f"{path}: is missing")
        elif actual != expected.sha256:
            problems.append(f"{path}: sha256 {actual[:12]}..., {expected.sha256[:12]}... was expected")
    return problems


def removable_entries(entries: Iterable[StoreEntry], keep: int | None = None) -> list[StoreEntry]:
    """Return the entries that are not complete and, with `keep`, all but the newest `keep` of each stage.

    An artifact that a kept one was made from, directly or indirectly, is kept too.
    """
    entries = list(entries)
    complete = [entry for entry in entries if entry.state == "complete"]
    incomplete = [entry for entry in entries if entry.state != "complete"]
    if keep is None:
        return incomplete
    newest: dict[str, list[StoreEntry]] = {}
    for entry in complete:
        newest.setdefault(entry.stage, []).append(entry)
    kept = [entry for several in newest.values() for entry in several[:keep]]
    by_digest = {entry.digest: entry for entry in complete}
    needed: dict[str, StoreEntry] = {}
    while kept:
        entry = kept.pop()
        if entry.name not in needed:
            needed[entry.name] = entry
            kept.extend(by_digest[digest] for digest in entry.inputs if digest in by_digest)
    return incomplete + [entry for entry in complete if entry.name not in needed]


def find_entries(entries: Sequence[StoreEntry], names: Iterable[str]) -> list[StoreEntry]:
    """Return the entries that the names mean: `STAGE/KEY`, `KEY`, or `STAGE` for all of a stage; each once.

    Raises:
        InputError: A name means none; names the nearest.
    """
    found: dict[str, StoreEntry] = {}
    for name in names:
        meant = [entry for entry in entries if name.strip("/") in (entry.name, entry.key, entry.stage)]
        if not meant:
            raise InputError(f"{name}: no such key or stage in the store{nearest(name, [e.name for e in entries])}")
        found |= {entry.name: entry for entry in meant}
    return list(found.values())


def dependents(entries: Iterable[StoreEntry], removed: Iterable[StoreEntry]) -> list[StoreEntry]:
    """Return the entries that were made from `removed`, directly or indirectly, and are not among them."""
    entries, known = list(entries), {entry.name for entry in removed}
    digests = {entry.digest for entry in entries if entry.name in known and entry.digest}
    found: list[StoreEntry] = []
    while more := [e for e in entries if e.name not in known and not digests.isdisjoint(e.inputs)]:
        found += more
        known |= {entry.name for entry in more}
        digests |= {entry.digest for entry in more}
    return found


def remove_entry(store: Store, entry: StoreEntry, *, delete: bool = True) -> bool:
    """Delete an entry, its COMPLETE file first, so that an interrupted removal leaves nothing that looks complete.

    Returns False if another process is working on it. Without `delete` only this is checked.
    """
    folder = store.folder(entry.stage, entry.key)
    with _unused(folder) as unused:
        if unused and delete:
            unused.check()
            (folder / COMPLETE).unlink(missing_ok=True)
            if store.remote:
                store.remote.at(entry.name).remove(first=COMPLETE)
            shutil.rmtree(folder, ignore_errors=True)
            unused.retire()
    return unused is not None


def old_run_folders(store: Store, keep: int) -> list[Path]:
    """Return the folders of all pipeline runs of this machine but the newest `keep`, the oldest first."""
    folders = sorted(path for path in (store.root / RUNS).glob("*") if path.is_dir())  # their names begin with the time
    return folders[: max(0, len(folders) - keep)]


def remove_run_folder(folder: Path, *, delete: bool = True) -> bool:
    """Delete a run's folder. Returns False if the run is alive. Without `delete` only this is checked."""
    with _unused(folder) as unused:
        if unused and delete:
            unused.check()
            shutil.rmtree(folder, ignore_errors=True)
            unused.retire()
    return unused is not None


@contextlib.contextmanager
def _unused(folder: Path) -> Iterator[locks.Held | None]:
    """Hold a folder's lock during the block; None if another process holds it."""
    with contextlib.ExitStack() as stack:
        held: locks.Held | None = _NoLock()
        if (folder / LOCK).exists():
            try:
                held = stack.enter_context(locks.hold(folder / LOCK, wait=False))
            except locks.LockHeldError:
                held = None
        yield held


class _NoLock:
    """Stands for the lock of a folder that has none: nothing was ever made in it here."""

    def check(self) -> None:
        """Confirm."""

    def retire(self) -> None:
        """Leave no trace."""


def _local_files(store: Store) -> Iterator[tuple[str, int]]:
    if not store.root.is_dir():
        raise InputError(f"{store.uri}: no such folder; a store was expected")
    for path in store.root.glob("*/*/**/*"):
        if path.is_file():
            yield path.relative_to(store.root).as_posix(), path.stat().st_size


def _remote_files(store: Store) -> Iterator[tuple[str, int]]:
    assert store.remote is not None
    yield from store.remote.list().items()


def _entry(store: Store, name: str, inside: dict[str, int]) -> StoreEntry:
    stage, _, key = name.partition("/")
    size = sum(inside.values())
    label = _label(store, f"{name}/{KEY}") if KEY in inside else ""
    if COMPLETE not in inside:
        return StoreEntry(stage, key, "unfinished", size, label)
    try:
        manifest = Manifest.model_validate_json(_read(store, f"{name}/{MANIFEST}"))
    except (OSError, ValidationError, StorageError):
        return StoreEntry(stage, key, "unreadable", size, label)
    inputs = tuple(one["digest"] for one in manifest.provenance.get("inputs", {}).values())
    finished = str(manifest.provenance.get("finished", ""))
    kind = manifest.content.kind
    return StoreEntry(stage, key, "complete", size, label, kind, manifest.digest, finished, inputs, manifest)


def _label(store: Store, name: str) -> str:
    try:
        record = json.loads(_read(store, name))
    except (OSError, ValueError, StorageError):
        return ""
    return str(record.get("label", "")) if isinstance(record, dict) else ""


def _read(store: Store, name: str) -> bytes:
    """Read a small file of the store, local or remote."""
    if store.remote is None:
        return (store.root / name).read_bytes()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / Path(name).name
        store.remote.download(name, path)
        return path.read_bytes()


def _sha256(store: Store, name: str) -> str | None:
    if store.remote:
        return store.remote.sha256(name)
    path = store.root / name
    return sha256_file(path) if path.is_file() else None
