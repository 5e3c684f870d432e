# SPDX-License-Identifier: Apache-2.0
"""The token index: records tokenized once, then read from memory-mapped arrays by every process.

Defines how units are stored on disk; the objective interprets records, and `tokenize.py` turns them into arrays. An
index is keyed by the content of the files and everything its tokens depend on, so a stale one is never read. The
launcher builds it before a job holds its devices; the job's processes open it by its key, without hashing or locking.
"""

import contextlib
import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from tqdm import tqdm

from steerlm import locks
from steerlm.checksums import sha256_file
from steerlm.errors import InputError
from steerlm.files import atomic_folder, write_json
from steerlm.prompt import PROMPT_VERSION
from steerlm.training.data import Ints, Sample
from steerlm.training.engine import Objective
from steerlm.training.tokenize import DTYPES, available_cpus, tokenize

log = logging.getLogger(__name__)

FORMAT = 1
"""Version of the stored arrays; raise it when the same records would become other arrays."""

POLL_SECONDS = 0.5
PROGRESS_SECONDS = 5.0
"""Seconds between progress lines where no terminal shows a bar."""

ReportProgress = Callable[[str], None]


class TokenDataset:
    """Units in the order of the files.

    Attributes:
        key: Digest that identifies the index.
        counts: What the objective counted, and the numbers of records, units, samples and tokens.
        lengths: Tokens of each sample, [samples] int32.
        denominators: What each sample adds to the loss's denominator, [samples] int32.
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
    def build(
        cls,
        paths: Sequence[str | Path],
        objective: Objective,
        cache: Path,
        report_progress: ReportProgress | None = None,
        processes: int | None = None,
    ) -> Self:
        """Open the index of `paths` under `cache`, building it first if it does not exist.

        One process builds it while others that call this wait.

        Args:
            report_progress: Receives a line every few seconds where no terminal shows a bar; default: the log.
            processes: Most processes that tokenize; default: one per CPU.

        Raises:
            RecordError: The objective refuses a record; names file and line.
            InputError: No unit is left.
        """
        files = [Path(path) for path in paths]
        method = _method(objective)
        digests = [_digest(path) for path in files]
        content = json.dumps([FORMAT, PROMPT_VERSION, method["objective"], digests], sort_keys=True)
        key = hashlib.sha256(content.encode()).hexdigest()
        folder = _folder(cache, key)
        cache.mkdir(parents=True, exist_ok=True)
        if not (folder / "meta.json").exists():
            with locks.hold(cache / f".{folder.name}.lock") as held:
                if not (folder / "meta.json").exists():
                    meta = {"key": key, "method": method, "sizes": [path.stat().st_size for path in files]}
                    report = report_progress or log.info
                    _write(files, objective, folder, meta, report, processes or available_cpus(), held)
        dataset = cls(folder)
        if not len(dataset):
            counts = _format_counts(dataset.counts) or "no record"
            raise InputError(f"nothing to learn from in {', '.join(map(str, files))}: {counts}")
        log.info("%s: %s", ", ".join(path.name for path in files), _format_counts(dataset.counts))
        return dataset

    @classmethod
    def open(
        cls, key: str, paths: Sequence[Path], objective: Objective, cache: Path, wait_seconds: float = 0.0
    ) -> Self | None:
        """Open the index `key` if it was built from `paths` for the same objective; None otherwise.

        The files are not read: only their sizes are compared, and only if the files exist. `wait_seconds`: how long
        an index that another machine has built may take to be seen here.
        """
        end = time.monotonic() + wait_seconds
        while True:
            try:
                return cls._open(key, paths, objective, _folder(cache, key))
            except FileNotFoundError:
                if time.monotonic() >= end:
                    return None
            time.sleep(POLL_SECONDS)

    @classmethod
    def _open(cls, key: str, paths: Sequence[Path], objective: Objective, folder: Path) -> Self | None:
        meta: dict[str, Any] = json.loads((folder / "meta.json").read_text())
        method = _method(objective)
        sizes = [path.stat().st_size if path.exists() else None for path in paths]
        same = all(size in (None, built) for size, built in zip(sizes, meta.get("sizes", []), strict=False))
        if meta["key"] != key or meta.get("method", method) != method or not same:
            return None
        return cls(folder)

    def __len__(self) -> int:
        return len(self._arrays["units"])

    def samples(self, unit: int) -> range:
        """Return the samples of a unit, as indices into `lengths`."""
        ends = self._arrays["units"]
        return range(int(ends[unit - 1]) if unit else 0, int(ends[unit]))

    def in_one_row(self, unit: int) -> bool:
        """Whether the samples of a unit must share a row."""
        return bool(self._arrays["together"][unit])

    def longest(self) -> int:
        """Return the tokens of the longest sample, or of the longest unit whose samples must share a row."""
        units = np.flatnonzero(self._arrays["together"])
        return max([int(self.lengths.max()), *(int(self.lengths[list(self.samples(u))].sum()) for u in units.tolist())])

    def sample(self, index: int) -> Sample:
        """Return a sample, copied from the memory map."""
        offsets = self._arrays["offsets"]
        start, end = int(offsets[index - 1]) if index else 0, int(offsets[index])
        weights = (
            np.array(self._arrays["weights"][start:end]) if self._has_weights else np.zeros(end - start, np.float32)
        )
        labels = None if self._labels is None else np.array(self._labels[index])
        return Sample(np.array(self._arrays["ids"][start:end]), weights, labels, int(self._arrays["counts"][index]))


def _folder(cache: Path, key: str) -> Path:
    return cache / key[:16]


def _method(objective: Objective) -> dict[str, Any]:
    """Return what the arrays depend on besides the files, normalized as JSON."""
    method = {"format": FORMAT, "prompt": PROMPT_VERSION, "objective": objective.fingerprint()}
    plain: dict[str, Any] = json.loads(json.dumps(method))
    return plain


def _write(
    files: Sequence[Path],
    objective: Objective,
    folder: Path,
    meta: dict[str, Any],
    report_progress: ReportProgress,
    processes: int,
    held: locks.Held,
) -> None:
    """Tokenize every record into `folder`, which appears under its name once it is complete."""
    totals = {"records": 0, "units": 0, "samples": 0, "tokens": 0}
    counts: Counter[str] = Counter()
    try:
        with atomic_folder(folder) as partial:
            with contextlib.ExitStack() as stack:
                out = {n: stack.enter_context(open(partial / f"{n}.bin", "wb", buffering=1 << 20)) for n in DTYPES}
                progress = stack.enter_context(_Progress(files, report_progress))
                for part in tokenize(files, objective, processes):
                    part.arrays["offsets"] += totals["tokens"]
                    part.arrays["units"] += totals["samples"]
                    for name, array in part.arrays.items():
                        out[name].write(array.tobytes())
                    totals["records"] += part.records
                    totals["units"] += len(part.arrays["units"])
                    totals["samples"] += len(part.arrays["offsets"])
                    totals["tokens"] += len(part.arrays["ids"])
                    counts.update(part.counts)
                    for name, message in part.warnings.items():
                        objective.warn_once(name, message)
                    progress.update(part.size, totals)
            write_json(partial / "meta.json", {**meta, "counts": {**totals, **counts}})
            held.check()
    except OSError:
        if not (folder / "meta.json").exists():  # else a machine that does not share our lock has built the same index
            raise


class _Progress:
    """A progress bar of the bytes read; without a terminal, a line every few seconds."""

    def __init__(self, files: Sequence[Path], report_progress: ReportProgress) -> None:
        compressed = any(path.suffix == ".gz" for path in files)
        self._total = None if compressed else sum(path.stat().st_size for path in files)
        self._bar = tqdm(desc="tokenize", total=self._total, unit="B", unit_scale=True, disable=None)
        self._report_progress, self._reported, self._read = report_progress, time.monotonic(), 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self, size: int, totals: dict[str, int]) -> None:
        self._read += size
        self._bar.update(size)
        if self._bar.disable and time.monotonic() - self._reported > PROGRESS_SECONDS:
            self._reported = time.monotonic()
            share = f" ({self._read / self._total:.0%})" if self._total else ""
            self._report_progress(f"tokenized {totals['records']:,} records, {totals['tokens']:,} tokens{share}")


def _mapped(path: Path, name: str) -> Any:
    """Map a file as an array; an empty file cannot be mapped."""
    if path.stat().st_size == 0:
        return np.empty(0, DTYPES[name])
    return np.memmap(path, DTYPES[name], mode="r")


def _digest(path: Path) -> str:
    try:
        return sha256_file(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None


def _format_counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{value} {name}" for name, value in counts.items() if value)
