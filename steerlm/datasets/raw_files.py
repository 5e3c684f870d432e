# SPDX-License-Identifier: Apache-2.0
"""Chooses the files of a local source by their names and reads their rows; knows nothing about what rows mean."""

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from steerlm.datasets.outputs import TRAIN, VAL
from steerlm.datasets.progress import with_progress
from steerlm.datasets.row_readers import READERS, OnBadLine
from steerlm.errors import InputError, RecordError
from steerlm.records import Record, parse_line

LINE_FORMATS = (".jsonl", ".jsonl.gz", ".parquet")
"""What every source reads, the preferred format first."""
ALL_FORMATS = tuple(READERS)
SPREADSHEETS = (".xlsx", ".xls", ".ods", ".numbers")
BOTH = "both"
"""Split of a file whose rows decide their split."""
log = logging.getLogger(__name__)


def file_format(path: Path, formats: Sequence[str]) -> str | None:
    """Return the ending of a file's name that is among `formats`, or None."""
    return next((ending for ending in sorted(formats, key=len, reverse=True) if path.name.endswith(ending)), None)


def data_files(path: Path, formats: Sequence[str] = LINE_FORMATS) -> list[Path]:
    """Return the data files of a local source: the file itself, or those of a folder in order of their names.

    If a folder has the same name in several formats, the first format of `formats` is read. Raises `InputError` if
    there is no such file.
    """
    if path.is_file():
        if file_format(path, formats) is None:
            remedy = "; save the table as CSV" if path.suffix in SPREADSHEETS and ".csv" in formats else ""
            raise InputError(f"{path}: expected a file that ends in {', '.join(formats)}{remedy}")
        return [path]
    chosen: dict[str, Path] = {}
    for file in sorted(path.iterdir(), key=lambda p: formats.index(file_format(p, formats) or formats[-1])):
        ending = file_format(file, formats)
        if ending is None or not file.is_file() or file.name.startswith("."):
            continue
        name = file.name.removesuffix(ending)
        if name in chosen:
            log.info("%s is ignored: %s has the same name and is read", file, chosen[name])
        chosen.setdefault(name, file)
    if not chosen:
        raise InputError(f"{path}: the folder has no file that ends in {', '.join(formats)}")
    return sorted(chosen.values())


def split_files(path: Path, formats: Sequence[str] = LINE_FORMATS) -> dict[str, list[Path]]:
    """Return the files of each split, by the names `train*` and `val*`; a single file of another name is training data.

    Searches a folder and its subfolder `data`; also reads folders written by `datasets.save_to_disk`. Raises
    `InputError` if there is no training or validation file.
    """
    if path.is_file():
        (file,) = data_files(path, formats)
        return {VAL: [file]} if file.name.startswith("val") else {TRAIN: [file]}
    if (path / "state.json").is_file():
        return {VAL if path.name.startswith("val") else TRAIN: _saved_files(path)}
    if (path / "dataset_dict.json").is_file():
        return _saved_splits(path)

    def split(file: Path) -> str | None:
        return _split(file.name) if file_format(file, formats) else None

    folder = path / "data" if (path / "data").is_dir() and not any(map(split, path.iterdir())) else path
    files = data_files(folder, formats)
    splits = {name: [f for f in files if split(f) == name] for name in (TRAIN, VAL)}
    if not any(splits.values()):
        raise InputError(
            f"{folder}: no file is named train* or val*; found {', '.join(f.name for f in files[:5])}; "
            "rename one or name it itself as the source"
        )
    return splits


def source_lines(path: Path, on_error: OnBadLine | None = None) -> Iterator[tuple[int, str]]:
    """Yield (line or row number from 1, JSON text), with a progress bar. Bad lines as in `records.read_lines`."""
    read = READERS[file_format(path, ALL_FORMATS) or ".jsonl"]
    return with_progress(read(path, on_error), path.name, "lines")


def source_rows(path: Path, model: type[Record], on_error: OnBadLine) -> Iterator[tuple[int, str, Record]]:
    """Yield (number, text, record) of every good line; pass the bad ones to `on_error`."""
    for number, line in source_lines(path, on_error):
        try:
            record = parse_line(line, model, path, number)
        except RecordError as error:
            on_error(error, line)
            continue
        yield number, line, record


def _split(name: str) -> str | None:
    return TRAIN if name.startswith("train") else VAL if name.startswith("val") else None


def _saved_splits(path: Path) -> dict[str, list[Path]]:
    """Return the files of a `DatasetDict` that was saved to disk."""
    saved = {split: folder for folder in sorted(path.iterdir()) if folder.is_dir() and (split := _split(folder.name))}
    if not saved:
        raise InputError(f"{path}: no split is named train* or val*; name the folder of one as the source")
    return {split: _saved_files(saved[split]) for split in (TRAIN, VAL) if split in saved}


def _saved_files(folder: Path) -> list[Path]:
    """Return the Arrow files of a `Dataset` that was saved to disk, in the order of its rows."""
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        files = [folder / entry["filename"] for entry in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder / 'state.json'}: not as datasets.save_to_disk writes it ({type(error).__name__}: {error})"
        ) from None
    if state.get("_indices_data_files"):
        raise InputError(f"{folder}: rows are selected by indices; save it again after dataset.flatten_indices()")
    if missing := [file for file in files if not file.is_file()]:
        raise InputError(f"{missing[0]}: no such file, although state.json names it; save the dataset again")
    return files
