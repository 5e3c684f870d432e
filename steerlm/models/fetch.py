# SPDX-License-Identifier: Apache-2.0
"""Fetches a model folder: from the hub, from an object store, or from this machine. Safetensors and tokenizers only.

A fetch can be repeated: what is there is kept, what is missing is fetched, and `fetched.json` (where from, every file's
size and sha256) is written last. Pickled weights and code are never fetched.
"""

import fnmatch
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from steerlm.checksums import FileDigest, digest_folder
from steerlm.errors import InputError, ModelError, StorageError
from steerlm.files import atomic_path, write_json
from steerlm.models.folder import FETCHED, INFO, TERMS
from steerlm.models.hub import HubSource
from steerlm.models.shape import ModelShape
from steerlm.models.tokenizer import FILES, copy_tokenizer
from steerlm.storage import S3Prefix, is_remote

WEIGHTS, INDEX, CONFIG = "*.safetensors", "model.safetensors.index.json", "config.json"
WANTED = (*FILES, WEIGHTS, INDEX, CONFIG, "generation_config.json", INFO, "README.md", *TERMS)
STARTED, DIGESTS = ".fetching.json", ".digests.json"
"""Hidden files of a fetch under way: what is being fetched, and checksums already computed."""


class Source(Protocol):
    """Where a model comes from. `name`: what the manifest calls it; `revision`: which version, if it has any."""

    name: str
    revision: str | None

    def files(self) -> dict[str, FileDigest]:
        """Sizes and, where they are known, checksums ("" if not) of what is there."""
        ...

    def get(self, files: Mapping[str, FileDigest], folder: Path) -> None:
        """Put files into the folder; those that are there and right are kept."""
        ...

    def room(self, files: Mapping[str, FileDigest], folder: Path) -> int:
        """Bytes that `get` will need on the folder's disk."""
        ...


def fetch_model(uri: str, folder: Path) -> None:
    """Make `folder` a model folder with what `uri` names: `hf://org/name@revision`, `s3://bucket/prefix` or a folder.

    Raises `ModelError` for a model that cannot be used (no safetensors, another architecture), `InputError` for an
    address that does not exist or may not be read, or a folder that holds something else, `StorageError` for a transfer
    that failed or a file that is not what it should be.
    """
    begun = _read(folder / STARTED)
    source = open_source(uri, begun["revision"] if begun and begun["uri"] == uri else None)
    if _complete(source, folder):
        return
    _claim(source, folder, begun)
    files = {name: digest for name, digest in source.files().items() if _wanted(name)}
    if not files:
        raise InputError(f"{uri}: no model is there")
    weights = fnmatch.filter(files, WEIGHTS)
    if not weights:
        raise ModelError(f"{uri}: no safetensors; pickled weights are not read, ask for a converted model or revision")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / STARTED, {"uri": source.name, "revision": source.revision})
    (folder / FETCHED).unlink(missing_ok=True)
    described = {name: digest for name, digest in files.items() if name == INFO}
    source.get({name: files[name] for name in files.keys() - {INFO} - set(weights)}, folder)
    ModelShape.from_folder(folder)  # before many gigabytes
    shards = {name: files[name] for name in _shards(uri, folder, weights)}
    _check_room(folder, source.room(shards, folder))
    source.get(shards, folder)
    _verify(folder, shards)
    copy_tokenizer(folder, folder)
    source.get(described, folder)
    digests = {name: asdict(digest) for name, digest in _digests(folder).items()}
    write_json(folder / FETCHED, {"uri": source.name, "revision": source.revision, "files": digests})
    for done in (STARTED, DIGESTS):
        (folder / done).unlink(missing_ok=True)


def open_source(uri: str, commit: str | None = None) -> Source:
    """`commit`: the hub's, of a fetch that was interrupted."""
    if uri.startswith("hf://"):
        return HubSource(uri, commit)
    return StoreSource(uri) if is_remote(uri) else DiskSource(uri)


class StoreSource:
    """`s3://bucket/prefix`. Checksums are compared where the objects carry one."""

    revision: str | None = None

    def __init__(self, uri: str) -> None:
        self.name, self._place = uri, S3Prefix.open(uri)

    def files(self) -> dict[str, FileDigest]:
        return {name: FileDigest("", size) for name, size in self._place.list().items()}

    def get(self, files: Mapping[str, FileDigest], folder: Path) -> None:
        self._place.download_all({name: folder / name for name in files})

    def room(self, files: Mapping[str, FileDigest], folder: Path) -> int:
        return sum(digest.size for name, digest in files.items() if not (folder / name).exists())


class DiskSource:
    """A folder of this machine; its manifest name is the folder's, as a path means nothing elsewhere.

    Weights become hard links where the file system allows; what is small is copied, as it may be rewritten.
    """

    revision: str | None = None

    def __init__(self, uri: str) -> None:
        self.path = Path(uri.removeprefix("file://")).expanduser().resolve()
        if not self.path.is_dir():
            raise InputError(f"{uri}: no such model folder")
        self.name = self.path.name

    def files(self) -> dict[str, FileDigest]:
        return {p.name: FileDigest("", p.stat().st_size) for p in sorted(self.path.iterdir()) if p.is_file()}

    def get(self, files: Mapping[str, FileDigest], folder: Path) -> None:
        for name in files:
            source, target = (self.path / name).resolve(), folder / name  # the hub's cache consists of symbolic links
            with atomic_path(target, writer="") as partial:
                if not fnmatch.fnmatchcase(name, WEIGHTS) or not _link(source, partial):
                    shutil.copyfile(source, partial)

    def room(self, files: Mapping[str, FileDigest], folder: Path) -> int:
        here = folder.stat().st_dev
        return sum(digest.size for name, digest in files.items() if (self.path / name).stat().st_dev != here)


def _link(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without links
        return False
    return True


def _wanted(name: str) -> bool:
    """Files of the folder itself, not of folders below it."""
    return "/" not in name and any(fnmatch.fnmatchcase(name, pattern) for pattern in WANTED)


def _complete(source: Source, folder: Path) -> bool:
    """Whether the folder holds just this. Raises `StorageError` for a file that is not as it was when fetched."""
    manifest = _read(folder / FETCHED)
    if manifest is None or manifest["uri"] != source.name:
        return False
    sizes: Mapping[str, int] = {name: digest["size"] for name, digest in manifest["files"].items()}
    for name, size in sizes.items():
        path = folder / name
        if not path.exists() or path.stat().st_size != size:
            raise StorageError(f"{path}: missing or changed since it was fetched; delete {folder} and fetch again")
    if not isinstance(source, DiskSource):
        return True
    there = source.files()
    return all(name in there and there[name].size == sizes[name] for name in fnmatch.filter(sizes, WEIGHTS))


def _claim(source: Source, folder: Path, begun: dict[str, Any] | None) -> None:
    """Raise `InputError` unless the folder is absent, empty or an earlier fetch of the same."""
    if isinstance(source, DiskSource) and source.path == folder.resolve():
        raise InputError(f"{folder}: is the model itself; give another folder")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; a new folder was expected")
    holds = (begun or _read(folder / FETCHED) or {}).get("uri")
    if holds is not None and holds != source.name:
        raise InputError(f"{folder}: holds {holds}; give another folder")
    if holds is None and folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise InputError(f"{folder}: is not empty; give a new folder")


def _shards(uri: str, folder: Path, weights: list[str]) -> list[str]:
    """The weights that belong to the model: those its index names, where it has one."""
    if not (folder / INDEX).is_file():
        return ["model.safetensors"] if "model.safetensors" in weights else weights
    try:
        named = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{uri}: {INDEX} is not an index of weights") from None
    if absent := [name for name in named if name not in weights]:
        raise ModelError(f"{uri}: {absent[0]} is missing, which {INDEX} names")
    return named


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StorageError(f"{folder}: the weights need {needed / 1e9:.1f} GB more, {free / 1e9:.1f} GB are free")


def _verify(folder: Path, told: Mapping[str, FileDigest]) -> None:
    """Compare the weights with what is said of them; a wrong file is removed, so that a repeated fetch gets it anew."""
    found = _digests(folder)
    for name in fnmatch.filter(found, WEIGHTS):
        if name not in told:  # of an earlier state of the source
            (folder / name).unlink()
    for name, wanted in told.items():
        if found[name].size != wanted.size or (wanted.sha256 and found[name].sha256 != wanted.sha256):
            (folder / name).unlink()
            raise StorageError(f"{folder / name}: is not the file described (checksum); it was removed, fetch again")


def _digests(folder: Path) -> dict[str, FileDigest]:
    return digest_folder(folder, folder / DIGESTS)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found
