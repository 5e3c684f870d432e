# SPDX-License-Identifier: Apache-2.0
"""Files of records into the arrays of a token index: chunks of lines, tokenized in this process or in several.

Whatever the number of processes, the arrays, the counts and the first error are those of reading line by line. Memory
is bounded by the chunks on their way. Imports no torch: a launcher without it builds the index.
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
"""Less text than this is tokenized in this process: the tokenizer's own threads share most of the work already, and
another process takes about two seconds to start."""
MOST_PROCESSES = 32
"""One process reads and writes for all; it keeps no more than about so many busy."""

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


@dataclass(frozen=True, slots=True)
class Chunk:
    """Numbered lines of one file, `size` bytes of UTF-8; `error` is what reading on raised."""

    path: Path
    lines: list[tuple[int, str]]
    size: int
    error: RecordError | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """A tokenized chunk: an array per name of `DTYPES`, `offsets` and `units` counted from its own beginning."""

    arrays: dict[str, npt.NDArray[Any]]
    records: int
    size: int
    counts: Counter[str]
    warnings: dict[str, str]


def available_cpus() -> int:
    """CPUs this process may use: its affinity, and the quota of its container (cgroup v2)."""
    cpus = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return min(cpus, max(1, int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup v2, or no quota ("max")
        return cpus


def tokenize(paths: Sequence[Path], objective: Objective, processes: int) -> Iterator[Part]:
    """The parts of all files in order, by up to `processes` processes where the files are large enough for that.

    Raises `RecordError` naming file and line for the first record that cannot be read or that the objective refuses,
    `TrainingError` if a process is killed.
    """
    processes = min(processes, MOST_PROCESSES)
    if processes > 1 and sum(path.stat().st_size for path in paths) >= PARALLEL_BYTES:
        yield from _in_processes(_chunks(paths), objective, processes)
    else:
        for chunk in _chunks(paths):
            yield tokenize_chunk(chunk, objective)


def tokenize_chunk(chunk: Chunk, objective: Objective) -> Part:
    """Raises `RecordError` for the first bad line."""
    objective.counts.clear()

    def records() -> Iterator[Any]:
        for number, line in chunk.lines:
            yield parse_line(line, objective.record, chunk.path, number)
        if chunk.error is not None:
            raise chunk.error

    done: list[Sequence[Unit]] = []
    try:
        for units in objective.units_of(records()):
            done.append(units)
    except RecordError:
        raise
    except InputError as error:
        raise RecordError(chunk.path, chunk.lines[len(done)][0], str(error)) from None
    arrays = _arrays([unit for units in done for unit in units], objective.output == "logprobs")
    return Part(arrays, len(done), chunk.size, Counter(objective.counts), dict(objective.warnings))


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
    """Lines in the order of the files; after an error there is no more."""
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
    """Spawned, not forked: this process may have threads of torch or of the tokenizer."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, _begin, (pickle.dumps(objective),))
    waiting: deque[Future[Part]] = deque()
    try:
        for chunk in chunks:
            waiting.append(pool.submit(_tokenize, chunk))
            if len(waiting) > 2 * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise TrainingError(
            "a process that tokenizes was killed (out of memory?); run the same command again"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


_objective: Objective
"""Of a process that tokenizes, unpickled once."""


def _begin(objective: bytes) -> None:
    global _objective
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends us
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.disable()  # the parent repeats the warnings, once for all processes
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    _objective = pickle.loads(objective)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _tokenize(chunk: Chunk) -> Part:
    return tokenize_chunk(chunk, _objective)
