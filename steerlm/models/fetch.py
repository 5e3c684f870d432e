# SPDX-License-Identifier: Apache-2.0
"""Fetch a model folder from the hub, an object store or this machine. Safetensors and tokenizers only.

A fetch can be repeated: existing files are kept, missing ones fetched, and `fetched.json` (the source, every file's
size and sha256) is written last. Pickled weights and code are never fetched.
"""

import contextlib
import fnmatch
import json
import shutil
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from steerlm.checksums import FileDigest, digest_folder
from steerlm.errors import InputError, ModelError, StorageError
from steerlm.files import PARTIAL_SUFFIX, write_json
from steerlm.models.check import check_folder_weights, check_tokenizer
from steerlm.models.folder import FETCHED, INFO, TERMS
from steerlm.models.shape import ModelShape
from steerlm.models.sources import DiskSource, ModelSource, open_source
from steerlm.models.tokenizer import FILES, copy_tokenizer
from steerlm.models.weights import ADAPTER, INDEX, SINGLE, WEIGHTS, read_index, weight_files

CONFIG = "config.json"
PATTERNS = (*FILES, WEIGHTS, INDEX, CONFIG, "generation_config.json", INFO, "README.md", *TERMS)
STARTED, DIGESTS = ".fetching.json", ".digests.json"
"""Hidden files of an unfinished fetch: its source, and checksums already computed."""


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
    available = source.files()
    files = {name: digest for name, digest in available.items() if _is_model_file(name)}
    if not files:
        raise InputError(f"{uri}: there is no model at this address")
    if ADAPTER not in available and not fnmatch.filter(files, WEIGHTS):
        raise ModelError(f"{uri}: no safetensors; pickled weights are not read, choose a converted model or revision")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / STARTED, {"uri": source.name, "revision": source.revision})
    (folder / FETCHED).unlink(missing_ok=True)
    try:
        _get(source, uri, available, files, folder)
    except ModelError:
        _clear(folder)  # so that a mended model can be fetched by the same command
        raise
    digests = {name: asdict(digest) for name, digest in _digests(folder).items()}
    write_json(folder / FETCHED, {"uri": source.name, "revision": source.revision, "files": digests})
    for name in (STARTED, DIGESTS):
        (folder / name).unlink(missing_ok=True)


def fetch_shape(uri: str) -> ModelShape:
    """Return the shape of a model that is not on this machine; of its files, only `config.json` is read.

    Raises:
        ModelError: The model has no `config.json`, or cannot be trained.
        InputError: As `fetch_model`.
        StorageError: The transfer failed.
    """
    source = open_source(uri)
    config = source.files().get(CONFIG)
    if config is None:
        raise ModelError(f"{uri}: there is no {CONFIG}; a model in Hugging Face's format was expected")
    with tempfile.TemporaryDirectory() as scratch:
        source.get({CONFIG: config}, Path(scratch))
        try:
            return ModelShape.from_config(Path(scratch) / CONFIG)
        except ModelError as error:
            raise ModelError(str(error).replace(scratch, uri)) from None


def _get(
    source: ModelSource, uri: str, available: Collection[str], files: Mapping[str, FileDigest], folder: Path
) -> None:
    """Get all files; refuse what can be refused before many gigabytes are transferred, the rest after it."""
    info = {name: digest for name, digest in files.items() if name == INFO}
    small = {name: digest for name, digest in files.items() if name != INFO and not fnmatch.fnmatchcase(name, WEIGHTS)}
    source.get(small, folder)
    shape = ModelShape.from_config(folder / CONFIG)
    names = weight_files(uri, available, read_index(folder))
    if names == [SINGLE]:
        (folder / INDEX).unlink(missing_ok=True)  # of other weights, before; engines that look for it first would err
    copy_tokenizer(folder, folder)
    check_tokenizer(folder, folder, shape)
    shards = {name: files[name] for name in names}
    _check_disk(folder, source.bytes_needed(shards, folder))
    source.get(shards, folder)
    _verify(folder, shards)
    source.get(info, folder)
    check_folder_weights(folder)


def _clear(folder: Path) -> None:
    """Remove what was fetched, and the folder if it is then empty."""
    for path in folder.iterdir():
        if path.is_file() and (
            not path.name.startswith(".") or path.suffix == PARTIAL_SUFFIX or path.name in (STARTED, DIGESTS)
        ):
            path.unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()


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
