# SPDX-License-Identifier: Apache-2.0
"""Turns files of records into the arrays of a token index: chunks of lines, tokenized in one process or several.

Arrays, counts and the first error do not depend on the number of processes. Memory is bounded by the chunks in flight.
Imports no torch, so that a launcher without it can build the index.
"""

import logging
import multiprocessing
import os
import pickle
import signal
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from steerlm.errors import InputError, RecordError, TrainingError
from steerlm.records import parse_line, read_lines
from steerlm.training.data import Unit
from steerlm.training.engine import Objective

CHUNK_BYTES = 1 << 18
PARALLEL_BYTES = 64 << 20
"""Less text than this is tokenized in this process: the tokenizer's own threads parallelize most of the work, and
another process takes about two seconds to start."""
MOST_PROCESSES = 32
"""Beyond about this many, the one process that reads and writes for all cannot keep them busy."""

DTYPES = {
    "ids": np.int32,
    "weights": np.float32,
    "offsets": np.int64,
    "counts": np.int32,
    "labels": np.float32,
    "units": np.int64,
    "together": np.uint8,
}
"""Per token: ids, weights (empty if all are 0). Per sample: offsets (ends, in tokens), counts, labels (empty without
labels). Per unit: units (ends, in samples), together (1: in one row)."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Numbered lines of one file, `size` bytes of UTF-8; `error`: raised when reading the line after them."""

    path: Path
    lines: list[tuple[int, str]]
    size: int
    error: RecordError | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """A tokenized chunk: an array per name of `DTYPES`; its `offsets` and `units` start at 0."""

    arrays: dict[str, npt.NDArray[Any]]
    records: int
    size: int
    counts: Counter[str]
    warnings: dict[str, str]


def available_cpus() -> int:
    """Return how many CPUs this process may use: its affinity, limited by its container's quota (cgroup v2)."""
    cpus = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return min(cpus, max(1, int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup v2, or no quota ("max")
        return cpus


def tokenize(paths: Sequence[Path], objective: Objective, processes: int) -> Iterator[Part]:
    """Yield the parts of all files in order, using up to `processes` processes if the files are large enough.

    Raises:
        RecordError: A record cannot be read or the objective refuses it; names file and line of the first one.
        TrainingError: A process was killed.
    """
    processes = min(processes, MOST_PROCESSES)
    if processes > 1 and sum(path.stat().st_size for path in paths) >= PARALLEL_BYTES:
        yield from _in_processes(_chunks(paths), objective, processes)
    else:
        for chunk in _chunks(paths):
            yield tokenize_chunk(chunk, objective)


def tokenize_chunk(chunk: Chunk, objective: Objective) -> Part:
    """Tokenize a chunk. Raises `RecordError` for the first bad line."""
    objective.counts.clear()

    def records() -> Iterator[Any]:
        for number, line in chunk.lines:
            yield parse_line(line, objective.record, chunk.path, number)
        if chunk.error is not None:
            raise chunk.error

    record_units: list[Sequence[Unit]] = []
    try:
        for units in objective.units(records()):
            record_units.append(units)
    except RecordError:
        raise
    except InputError as error:
        raise RecordError(chunk.path, chunk.lines[len(record_units)][0], str(error)) from None
    arrays = _arrays([unit for units in record_units for unit in units], objective.output == "logprobs")
    return Part(arrays, len(record_units), chunk.size, Counter(objective.counts), dict(objective.warnings))


def _arrays(units: Sequence[Unit], weighted: bool) -> dict[str, npt.NDArray[Any]]:
    samples = [sample for unit in units for sample in unit.samples]
    values: dict[str, list[Any]] = {
        "ids": [sample.ids for sample in samples],
        "weights": [sample.weights for sample in samples] if weighted else [],
        "offsets": [np.cumsum([len(sample.ids) for sample in samples])],
        "counts": [[sample.count for sample in samples]],
        "labels": [sample.labels for sample in samples if sample.labels is not None],
        "units": [np.cumsum([len(unit.samples) for unit in units])],
        "together": [[unit.together == "row" for unit in units]],
    }
    return {
        name: np.concatenate(parts).astype(DTYPES[name]) if parts else np.empty(0, DTYPES[name])
        for name, parts in values.items()
    }


def _chunks(paths: Sequence[Path]) -> Iterator[Chunk]:
    """Yield chunks in the order of the files, up to the first error."""
    for path in paths:
        lines: list[tuple[int, str]] = []
        size = 0
        try:
            for number, line in read_lines(path):
                lines.append((number, line))
                size += len(line.encode())
                if size >= CHUNK_BYTES:
                    yield Chunk(path, lines, size)
                    lines, size = [], 0
        except RecordError as error:
            yield Chunk(path, lines, size, error)
            return
        if lines:
            yield Chunk(path, lines, size)


def _in_processes(chunks: Iterable[Chunk], objective: Objective, processes: int) -> Iterator[Part]:
    """Tokenize chunks in spawned processes: not forked, as this one may have threads of torch or the tokenizer."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, _start_process, (pickle.dumps(objective),))
    pending: deque[Future[Part]] = deque()
    try:
        for chunk in chunks:
            pending.append(pool.submit(_tokenize, chunk))
            if len(pending) > 2 * processes:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool:
        raise TrainingError("a tokenizing process was killed (out of memory?); run the same command again") from None
    finally:
        pool.shutdown(cancel_futures=True)


_objective: Objective
"""The objective of a tokenizing process, unpickled once."""


def _start_process(objective: bytes) -> None:
    global _objective
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.disable()  # the parent logs the warnings, once for all processes
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    _objective = pickle.loads(objective)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _tokenize(chunk: Chunk) -> Part:
    return tokenize_chunk(chunk, _objective)
