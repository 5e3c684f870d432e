# SPDX-License-Identifier: Apache-2.0
"""Fetch a model folder from the hub, an object store or this machine. Safetensors and tokenizers only.

A fetch can be repeated: existing files are kept, missing ones fetched, and `fetched.json` (the source, every file's
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
PATTERNS = (*FILES, WEIGHTS, INDEX, CONFIG, "generation_config.json", INFO, "README.md", *TERMS)
STARTED, DIGESTS = ".fetching.json", ".digests.json"
"""Hidden files of an unfinished fetch: its source, and checksums already computed."""


class ModelSource(Protocol):
    """Anything that models are fetched from. `name`: as in the manifest; `revision`: the version, if it has one."""

    name: str
    revision: str | None

    def files(self) -> dict[str, FileDigest]:
        """Return the sizes of all files and their checksums, "" where unknown."""
        ...

    def get(self, files: Mapping[str, FileDigest], folder: Path) -> None:
        """Transfer files to the folder; correct ones in it are kept."""
        ...

    def bytes_needed(self, files: Mapping[str, FileDigest], folder: Path) -> int:
        """Return how many bytes `get` will write to the folder's disk."""
        ...


def fetch_model(uri: str, folder: Path) -> None:
    """Fetch the model `hf://org/name@revision`, `s3://bucket/prefix` or a local folder into `folder`.

    Raises:
        ModelError: The model cannot be used (no safetensors, an unsupported family).
        InputError: The address does not exist or may not be read, or `folder` holds something else.
        StorageError: A transfer failed, or a file is damaged.
    """
    started = _read(folder / STARTED)
    source = open_source(uri, started["revision"] if started and started["uri"] == uri else None)
    if _complete(source, folder):
        return
    _claim(source, folder, started)
    files = {name: digest for name, digest in source.files().items() if _is_model_file(name)}
    if not files:
        raise InputError(f"{uri}: there is no model at this address")
    weights = fnmatch.filter(files, WEIGHTS)
    if not weights:
        raise ModelError(f"{uri}: no safetensors; pickled weights are not read, choose a converted model or revision")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / STARTED, {"uri": source.name, "revision": source.revision})
    (folder / FETCHED).unlink(missing_ok=True)
    info = {name: digest for name, digest in files.items() if name == INFO}
    source.get({name: files[name] for name in files.keys() - {INFO} - set(weights)}, folder)
    ModelShape.from_folder(folder)  # refuse the model before fetching many gigabytes
    shards = {name: files[name] for name in _shards(uri, folder, weights)}
    _check_disk(folder, source.bytes_needed(shards, folder))
    source.get(shards, folder)
    _verify(folder, shards)
    copy_tokenizer(folder, folder)
    source.get(info, folder)
    digests = {name: asdict(digest) for name, digest in _digests(folder).items()}
    write_json(folder / FETCHED, {"uri": source.name, "revision": source.revision, "files": digests})
    for name in (STARTED, DIGESTS):
        (folder / name).unlink(missing_ok=True)


def open_source(uri: str, commit: str | None = None) -> ModelSource:
    """Return the source of a URI. `commit`: the hub's, of an interrupted fetch."""
    if uri.startswith("hf://"):
        return HubSource(uri, commit)
    return StoreSource(uri) if is_remote(uri) else DiskSource(uri)


class StoreSource:
    """A model at `s3://bucket/prefix`. Checksums are compared if the objects have one."""

    revision: str | None = None

    def __init__(self, uri: str) -> None:
        self.name, self._place = uri, S3Prefix.open(uri)

    def files(self) -> dict[str, FileDigest]:
        """Return the sizes of all objects below the prefix, without checksums."""
        return {name: FileDigest("", size) for name, size in self._place.list().items()}

    def get(self, files: Mapping[str, FileDigest], folder: Path) -> None:
        """Download the objects in parallel and verify them by sha256 where the store has one."""
        self._place.download_all({name: folder / name for name in files})

    def bytes_needed(self, files: Mapping[str, FileDigest], folder: Path) -> int:
        """Return the total size in bytes of the files that are not in the folder yet."""
        return sum(digest.size for name, digest in files.items() if not (folder / name).exists())


class DiskSource:
    """A local folder. The manifest has the folder's name only, as its path means nothing on other machines.

    Weights become hard links if the file system allows; small files are copied, as they may be rewritten.
    """

    revision: str | None = None

    def __init__(self, uri: str) -> None:
        self.path = Path(uri.removeprefix("file://")).expanduser().resolve()
        if not self.path.is_dir():
            raise InputError(f"{uri}: no such model folder")
        self.name = self.path.name

    def files(self) -> dict[str, FileDigest]:
        """Return the sizes of the folder's own files, without checksums; subfolders are ignored."""
        return {p.name: FileDigest("", p.stat().st_size) for p in sorted(self.path.iterdir()) if p.is_file()}

    def get(self, files: Mapping[str, FileDigest], folder: Path) -> None:
        """Hard-link the weights, or copy them if the file system refuses; copy all other files."""
        for name in files:
            source, target = (self.path / name).resolve(), folder / name  # the hub's cache consists of symbolic links
            with atomic_path(target, writer="") as partial:
                if not fnmatch.fnmatchcase(name, WEIGHTS) or not _link(source, partial):
                    shutil.copyfile(source, partial)

    def bytes_needed(self, files: Mapping[str, FileDigest], folder: Path) -> int:
        """Return the total size in bytes of the files on another file system; the others become hard links."""
        device = folder.stat().st_dev
        return sum(digest.size for name, digest in files.items() if (self.path / name).stat().st_dev != device)


def _link(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without links
        return False
    return True


def _is_model_file(name: str) -> bool:
    """Return whether to fetch a file; files in subfolders are not fetched."""
    return "/" not in name and any(fnmatch.fnmatchcase(name, pattern) for pattern in PATTERNS)


def _complete(source: ModelSource, folder: Path) -> bool:
    """Return whether the folder holds this model. Raises `StorageError` for a file that changed since its fetch."""
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
    available = source.files()
    return all(name in available and available[name].size == sizes[name] for name in fnmatch.filter(sizes, WEIGHTS))


def _claim(source: ModelSource, folder: Path, started: dict[str, Any] | None) -> None:
    """Raise `InputError` unless the folder is absent, empty or an earlier fetch of the same model."""
    if isinstance(source, DiskSource) and source.path == folder.resolve():
        raise InputError(f"{folder}: is the model itself; give another folder")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; a new folder was expected")
    holds = (started or _read(folder / FETCHED) or {}).get("uri")
    if holds is not None and holds != source.name:
        raise InputError(f"{folder}: holds {holds}; give another folder")
    if holds is None and folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise InputError(f"{folder}: is not empty; give a new folder")


def _shards(uri: str, folder: Path, weights: list[str]) -> list[str]:
    """Return the weight files of the model: those that its index names, if it has one."""
    if not (folder / INDEX).is_file():
        return ["model.safetensors"] if "model.safetensors" in weights else weights
    try:
        named = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{uri}: {INDEX} is not an index of weights") from None
    if absent := [name for name in named if name not in weights]:
        raise ModelError(f"{uri}: {absent[0]} is missing, which {INDEX} names")
    return named


def _check_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StorageError(f"{folder}: the weights need {needed / 1e9:.1f} GB more, {free / 1e9:.1f} GB are free")


def _verify(folder: Path, expected: Mapping[str, FileDigest]) -> None:
    """Compare the weights with the source's digests; remove a wrong file, so that a repeated fetch gets it again."""
    digests = _digests(folder)
    for name in fnmatch.filter(digests, WEIGHTS):
        if name not in expected:  # from an earlier version of the source
            (folder / name).unlink()
    for name, digest in expected.items():
        if digests[name].size != digest.size or (digest.sha256 and digests[name].sha256 != digest.sha256):
            (folder / name).unlink()
            raise StorageError(f"{folder / name}: has another checksum than its source; it was removed, fetch again")


def _digests(folder: Path) -> dict[str, FileDigest]:
    return digest_folder(folder, folder / DIGESTS)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content
