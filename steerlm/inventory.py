# SPDX-License-Identifier: Apache-2.0
"""What a store holds: list it, verify every byte, clear away what nothing needs. Knows artifacts, not stages."""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from steerlm import locks
from steerlm.artifact import COMPLETE, KEY, LOCK, MANIFEST, Manifest, Store
from steerlm.checksums import sha256_file
from steerlm.errors import InputError, StorageError


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of a store. `size`: bytes of everything below it. `inputs`: digests of what it was made from. `label`:
    the step that first asked for it, such as `train_baseline` of the stage `train_sft`; empty if nothing says."""

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
        return f"{self.stage}/{self.key}"


def entries(store: Store) -> list[Entry]:
    """Every key, by stage, the newest first. Raises `InputError` if there is no store, `StorageError` if it is away."""
    files = _remote_files(store) if store.remote else _local_files(store)
    found: dict[str, dict[str, int]] = {}
    for name, size in files:
        stage, _, rest = name.partition("/")
        key, _, below = rest.partition("/")
        if below:
            found.setdefault(f"{stage}/{key}", {})[below] = size
    made = [_entry(store, name, inside) for name, inside in found.items() if {KEY, MANIFEST, COMPLETE} & set(inside)]
    return sorted(sorted(made, key=lambda e: e.finished, reverse=True), key=lambda e: e.stage)


def problems(store: Store, entry: Entry) -> list[str]:
    """What is wrong with a complete entry: files that are missing, of another size or of other bytes (all are read)."""
    if entry.manifest is None:
        return [f"{entry.name}: {MANIFEST} cannot be read"]
    told = []
    if entry.manifest.content.digest() != entry.manifest.digest:
        told.append(f"{entry.name}/{MANIFEST}: its digest does not fit its content")
    for name, wanted in entry.manifest.content.files.items():
        path = f"{entry.name}/{entry.kind}/{name}"
        found = _sha256(store, path)
        if found is None:
            told.append(f"{path}: is missing")
        elif found != wanted.sha256:
            told.append(f"{path}: sha256 {found[:12]}..., {wanted.sha256[:12]}... was expected")
    return told


def garbage(found: Iterable[Entry], keep: int | None = None) -> list[Entry]:
    """Entries that may go: those that are not complete and, with `keep`, of each stage all but the newest `keep`,
    unless something kept was made from them, directly or not."""
    complete = [entry for entry in found if entry.state == "complete"]
    going = [entry for entry in found if entry.state != "complete"]
    if keep is None:
        return going
    newest: dict[str, list[Entry]] = {}
    for entry in complete:
        newest.setdefault(entry.stage, []).append(entry)
    kept = [entry for several in newest.values() for entry in several[:keep]]
    by_digest = {entry.digest: entry for entry in complete}
    needed: dict[str, Entry] = {}
    while kept:
        entry = kept.pop()
        if entry.name not in needed:
            needed[entry.name] = entry
            kept.extend(by_digest[digest] for digest in entry.inputs if digest in by_digest)
    return going + [entry for entry in complete if entry.name not in needed]


def remove(store: Store, entry: Entry, *, delete: bool = True) -> bool:
    """Delete an entry, its completion first, so that a broken removal leaves nothing that looks whole. False if another
    process of this machine works on it. Without `delete`: whether it would go."""
    folder = store.folder(entry.stage, entry.key)
    with contextlib.ExitStack() as held:
        if (folder / LOCK).exists():
            try:
                held.enter_context(locks.hold(folder / LOCK, wait=False))
            except locks.LockHeldError:
                return False
        if not delete:
            return True
        (folder / COMPLETE).unlink(missing_ok=True)
        if store.remote:
            store.remote.at(entry.name).remove(first=COMPLETE)
        shutil.rmtree(folder, ignore_errors=True)
    return True


def _local_files(store: Store) -> Iterator[tuple[str, int]]:
    if not store.root.is_dir():
        raise InputError(f"{store.uri}: no such folder; a store was expected")
    for path in store.root.glob("*/*/**/*"):
        if path.is_file():
            yield path.relative_to(store.root).as_posix(), path.stat().st_size


def _remote_files(store: Store) -> Iterator[tuple[str, int]]:
    assert store.remote is not None
    yield from store.remote.list().items()


def _entry(store: Store, name: str, inside: dict[str, int]) -> Entry:
    stage, _, key = name.partition("/")
    size = sum(inside.values())
    label = _label(store, f"{name}/{KEY}") if KEY in inside else ""
    if COMPLETE not in inside:
        return Entry(stage, key, "unfinished", size, label)
    try:
        manifest = Manifest.model_validate_json(_read(store, f"{name}/{MANIFEST}"))
    except (OSError, ValidationError, StorageError):
        return Entry(stage, key, "unreadable", size, label)
    inputs = tuple(one["digest"] for one in manifest.provenance.get("inputs", {}).values())
    finished = str(manifest.provenance.get("finished", ""))
    kind = manifest.content.kind
    return Entry(stage, key, "complete", size, label, kind, manifest.digest, finished, inputs, manifest)


def _label(store: Store, name: str) -> str:
    try:
        record = json.loads(_read(store, name))
    except (OSError, ValueError, StorageError):
        return ""
    return str(record.get("label", "")) if isinstance(record, dict) else ""


def _read(store: Store, name: str) -> bytes:
    """A small file of the store, wherever it is."""
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
