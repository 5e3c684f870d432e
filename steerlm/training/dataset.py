"""The token index: a file of records tokenised once, then read from memory-mapped arrays by every process.

Knows how units lie on disk; what a record means is the objective's. Building streams: memory does not grow with the
data, except for one length per sample. An index is keyed by the content of the files and everything its tokens depend
on, so a stale one is never read.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from tqdm import tqdm

from steerlm.errors import InputError, RecordError
from steerlm.prompt import PROMPT_VERSION
from steerlm.records import read_records, write_json
from steerlm.storage import sha256_file
from steerlm.training.engine import Objective, Unit
from steerlm.training.rows import Ints, Sample

log = logging.getLogger(__name__)

FORMAT = 1
"""Raise it when the same records would become other arrays."""

SAY_EVERY = 5.0
"""Seconds between log lines where there is no terminal for a progress bar."""

DTYPES = {
    "ids": np.int32,
    "weights": np.float32,
    "offsets": np.int64,
    "counts": np.int32,
    "labels": np.float32,
    "units": np.int64,
    "together": np.uint8,
}
"""Per token: ids, weights (absent where all are 0). Per sample: offsets (ends, in tokens), counts, labels (absent where
there are none). Per unit: units (ends, in samples), together (1: one row)."""


class TokenDataset:
    """Units in the order of the files. `counts`: what the objective counted, and records, units, samples, tokens.

    `lengths` [samples] int32: tokens per sample; `denominators` [samples] int32: what each adds to the loss's
    denominator. `key`: the digest that names the index.
    """

    def __init__(self, folder: Path) -> None:
        meta: dict[str, Any] = json.loads((folder / "meta.json").read_text())
        self.key: str = meta["key"]
        self.counts: dict[str, int] = meta["counts"]
        self._arrays = {name: _mapped(folder / f"{name}.bin", name) for name in DTYPES}
        samples = self.counts["samples"]
        self._has_weights = bool(len(self._arrays["weights"]))
        width = len(self._arrays["labels"]) // samples if samples else 0
        self._labels = self._arrays["labels"].reshape(samples, width) if width else None
        self.denominators: Ints = self._arrays["counts"]
        self.lengths: Ints = np.diff(self._arrays["offsets"], prepend=0).astype(np.int32)

    @classmethod
    def build(cls, paths: Sequence[str | Path], objective: Objective, cache: Path) -> Self:
        """The index of `paths` under `cache`, made by the first process that asks and waited for by the others.

        Raises `RecordError` naming file and line for a record the objective refuses, `InputError` if nothing is left.
        """
        files = [Path(path) for path in paths]
        digests = [_digest(path) for path in files]
        content = json.dumps([FORMAT, PROMPT_VERSION, objective.fingerprint(), digests], sort_keys=True)
        key = hashlib.sha256(content.encode()).hexdigest()
        folder = cache / key[:16]
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache / f".{key[:16]}.lock"):
            if not (folder / "meta.json").exists():
                _write(files, objective, folder, key)
        dataset = cls(folder)
        if not len(dataset):
            raise InputError(
                f"nothing to learn from in {', '.join(map(str, files))}: {_spoken(dataset.counts) or 'no record'}"
            )
        log.info("%s: %s", ", ".join(path.name for path in files), _spoken(dataset.counts))
        return dataset

    def __len__(self) -> int:
        return len(self._arrays["units"])

    def samples(self, unit: int) -> range:
        """The samples of a unit, as indices into `lengths`."""
        ends = self._arrays["units"]
        return range(int(ends[unit - 1]) if unit else 0, int(ends[unit]))

    def in_one_row(self, unit: int) -> bool:
        return bool(self._arrays["together"][unit])

    def longest(self) -> int:
        """Tokens of the longest thing that must lie in one row: a sample, or a whole unit that says so."""
        units = np.flatnonzero(self._arrays["together"])
        return max([int(self.lengths.max()), *(int(self.lengths[list(self.samples(u))].sum()) for u in units.tolist())])

    def sample(self, index: int) -> Sample:
        """A sample, copied out of the map."""
        offsets = self._arrays["offsets"]
        start, end = int(offsets[index - 1]) if index else 0, int(offsets[index])
        weights = (
            np.array(self._arrays["weights"][start:end]) if self._has_weights else np.zeros(end - start, np.float32)
        )
        labels = None if self._labels is None else np.array(self._labels[index])
        return Sample(np.array(self._arrays["ids"][start:end]), weights, labels, int(self._arrays["counts"][index]))

    def unit(self, index: int) -> Unit:
        samples = tuple(self.sample(i) for i in self.samples(index))
        return Unit(samples, "row" if self.in_one_row(index) else "step")


def _write(files: Sequence[Path], objective: Objective, folder: Path, key: str) -> None:
    """Tokenise every record into a folder of its own, which takes `folder`'s name when it is whole."""
    partial = folder.with_name(f".{folder.name}.{os.uname().nodename}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process of this machine that died: we hold the lock
    partial.mkdir()
    objective.counts.clear()
    said = time.monotonic()
    totals = {"records": 0, "units": 0, "samples": 0, "tokens": 0}
    try:
        with contextlib.ExitStack() as stack:
            out = {n: stack.enter_context(open(partial / f"{n}.bin", "wb", buffering=1 << 20)) for n in DTYPES}
            bar = stack.enter_context(tqdm(desc="tokenise", unit="record", disable=None))
            for path in files:
                for number, record in read_records(path, objective.record):
                    try:
                        units = objective.units(record)
                    except RecordError:
                        raise
                    except InputError as error:
                        raise RecordError(path, number, str(error)) from None
                    totals["records"] += 1
                    for unit in units:
                        _append(unit, out, totals, objective.output == "logprobs")
                    bar.update()
                    if bar.disable and time.monotonic() - said > SAY_EVERY:
                        said = time.monotonic()
                        log.info("tokenised %d records, %d tokens", totals["records"], totals["tokens"])
        write_json(partial / "meta.json", {"key": key, "counts": {**totals, **objective.counts}})
        partial.rename(folder)
    except OSError:
        if not (folder / "meta.json").exists():  # else made meanwhile on a machine our lock does not reach: the same
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _append(unit: Unit, out: Mapping[str, IO[bytes]], totals: dict[str, int], weighted: bool) -> None:
    for sample in unit.samples:
        totals["samples"] += 1
        totals["tokens"] += len(sample.ids)
        values: dict[str, Any] = {"ids": sample.ids, "offsets": totals["tokens"], "counts": sample.count}
        if weighted:
            values["weights"] = sample.weights
        if sample.labels is not None:
            values["labels"] = sample.labels
        for name, value in values.items():
            out[name].write(np.asarray(value, DTYPES[name]).tobytes())
    totals["units"] += 1
    out["units"].write(np.asarray(totals["samples"], DTYPES["units"]).tobytes())
    out["together"].write(np.asarray(unit.together == "row", DTYPES["together"]).tobytes())


def _mapped(path: Path, name: str) -> Any:
    """An array of the file's content; an empty file cannot be mapped."""
    if path.stat().st_size == 0:
        return np.empty(0, DTYPES[name])
    return np.memmap(path, DTYPES[name], mode="r")


def _digest(path: Path) -> str:
    try:
        return sha256_file(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time; the lock of a process that dies is free again."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _spoken(counts: dict[str, int]) -> str:
    return ", ".join(f"{value} {name}" for name, value in counts.items() if value)
