# SPDX-License-Identifier: Apache-2.0
"""Where raw data comes from: a dataset on the hub, a local file or folder, an object store; and its lines.

Knows file formats (.jsonl, .jsonl.gz, .parquet) and the names of splits, not what the rows mean.
"""

import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from steerlm.datasets.config import HelpSteer2Source, OasstSource, SourceSettings
from steerlm.datasets.outputs import TRAIN, VAL
from steerlm.errors import InputError, RecordError, SourceUnreachableError, first_line
from steerlm.records import Record, parse_line, read_lines

FORMATS = (".jsonl", ".jsonl.gz", ".parquet")
BOTH = "both"
_HUB = re.compile(r"(hf://)?(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
SettingsT = TypeVar("SettingsT", bound=SourceSettings)
OnBadLine = Callable[[RecordError, str], None]
log = logging.getLogger(__name__)


def localise(settings: SettingsT, scratch: Path) -> SettingsT:
    """The same settings with a local `source`, fetched if it was remote: object stores into `scratch`, hub datasets
    into the hub client's cache.

    Raises `InputError` if there is no such source, `StorageError` if it cannot be reached (of the hub:
    `SourceUnreachableError`).
    """
    return settings.model_copy(update={"source": str(_fetch(settings.source, settings.patterns(), scratch))})


def data_files(path: Path) -> list[Path]:
    """The data files of a local source: the file itself, or those of a folder by name.

    Where a folder holds the same name in several formats, one is read. Raises `InputError` if there is none.
    """
    if path.is_file():
        if _format(path) is None:
            raise InputError(f"{path}: expected a file that ends in {', '.join(FORMATS)}")
        return [path]
    chosen: dict[str, Path] = {}
    for file in sorted(path.iterdir(), key=lambda p: FORMATS.index(_format(p) or FORMATS[-1])):
        ending = _format(file)
        if ending is None or not file.is_file() or file.name.startswith("."):
            continue
        name = file.name.removesuffix(ending)
        if name in chosen:
            log.info("%s is passed over: %s is read", file, chosen[name])
        chosen.setdefault(name, file)
    if not chosen:
        raise InputError(f"{path}: the folder holds no file that ends in {', '.join(FORMATS)}")
    return sorted(chosen.values())


def split_files(path: Path) -> dict[str, list[Path]]:
    """The files of each split, by the names `train*` and `val*`; a single file of another name is training data.

    Looks in a folder and in its subfolder `data`. Raises `InputError` if there is no training or validation file.
    """
    if path.is_file():
        (file,) = data_files(path)
        return {VAL: [file]} if file.name.startswith("val") else {TRAIN: [file]}
    folder = path / "data" if (path / "data").is_dir() and not any(map(_split, path.iterdir())) else path
    files = data_files(folder)
    splits = {split: [f for f in files if _split(f) == split] for split in (TRAIN, VAL)}
    if not any(splits.values()):
        raise InputError(
            f"{folder}: no file is named train* or val*; found {', '.join(f.name for f in files[:5])}; "
            "rename one or name it itself as the source"
        )
    return splits


def source_files(settings: SourceSettings) -> dict[str, list[Path]]:
    """Every file that a localised source is read from, by split: `TRAIN`, `VAL`, or `BOTH` where the rows decide.

    In order of reading; the input of the source, for a digest.
    """
    path = Path(settings.source)
    if isinstance(settings, OasstSource):
        files = data_files(path)
        return {BOTH: [f for f in files if "_all.trees." in f.name] or files}
    if isinstance(settings, HelpSteer2Source) and settings.preference:
        return {BOTH: data_files(path / "preference" if (path / "preference").is_dir() else path)}
    return split_files(path)


def source_lines(path: Path, on_error: OnBadLine | None = None) -> Iterator[tuple[int, str]]:
    """Yield (line or row number from 1, JSON text), with a progress bar. Bad lines as in `records.read_lines`."""
    lines = _parquet_lines(path) if path.suffix == ".parquet" else read_lines(path, on_error)
    return iter(tqdm(lines, desc=path.name, unit=" lines", disable=None))


def source_rows(path: Path, model: type[Record], on_error: OnBadLine) -> Iterator[tuple[int, str, Record]]:
    """Yield (number, text, record) of every good line; bad ones go to `on_error`."""
    for number, line in source_lines(path, on_error):
        try:
            record = parse_line(line, model, path, number)
        except RecordError as error:
            on_error(error, line)
            continue
        yield number, line, record


def _format(path: Path) -> str | None:
    return next((ending for ending in reversed(FORMATS) if path.name.endswith(ending)), None)


def _split(path: Path) -> str | None:
    if _format(path) is None:
        return None
    return TRAIN if path.name.startswith("train") else VAL if path.name.startswith("val") else None


def _parquet_lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise InputError(f"{path}: reading parquet needs pyarrow: pip install 'steerlm[data]'") from None
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    number += 1
                    yield number, json.dumps(row, ensure_ascii=False, default=str)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable parquet file (after row {number}): {error}") from None


def _fetch(source: str, patterns: Sequence[str], scratch: Path) -> Path:
    if source.startswith("s3://"):
        from steerlm import storage

        return storage.fetch(source, scratch / "fetched")
    local = Path(source).expanduser()
    if local.exists():
        return local
    found = _HUB.fullmatch(source)
    if found is None or source.startswith(".") or _format(local):
        raise InputError(f"{source}: no such file or folder (and not a hub dataset owner/name or an s3:// URI)")
    return _fetch_from_hub(source, found["name"], found["revision"], patterns)


def _fetch_from_hub(source: str, name: str, revision: str | None, patterns: Sequence[str]) -> Path:
    from huggingface_hub import errors, snapshot_download

    try:
        folder = snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=list(patterns))
    except errors.GatedRepoError:
        raise InputError(
            f"dataset {name} is gated: accept its licence on its page on the hub, then set HF_TOKEN to your token"
        ) from None
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError):
        raise InputError(
            f"{name}: no such file or folder here, and no such dataset{' revision' if revision else ''} on the hub"
        ) from None
    except (errors.HfHubHTTPError, OSError) as error:
        raise SourceUnreachableError(
            source, f"dataset {name} cannot be fetched from the hub ({first_line(error)})"
        ) from None
    if not any(_format(file) for file in Path(folder).rglob("*")):
        raise InputError(f"dataset {name} has no file {' or '.join(patterns)} ({', '.join(FORMATS)})")
    return Path(folder)
