# SPDX-License-Identifier: Apache-2.0
"""What every preparation writes: files that appear together, the rejects beside them, and a summary of counts.

Knows the policy for bad lines, not what makes a line bad.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from steerlm.datasets.config import OnError
from steerlm.errors import InputError, RecordError
from steerlm.files import atomic_writer, atomic_writers
from steerlm.records import Line

TRAIN, VAL = "train.jsonl", "val.jsonl"


@dataclass
class Summary:
    """What a preparation did. `written`: lines per file name; `counts`: what was read, dropped or passed over;
    `vector`: of samples, the attributes whose labels they hold, in order."""

    written: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    vector: tuple[str, ...] = ()
    rejects: Path | None = None
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, number: int = 1) -> None:
        self.counts[name] = self.counts.get(name, 0) + number

    def __str__(self) -> str:
        parts = [f"{name}: {count:,} lines" for name, count in self.written.items()]
        parts += [f"{name} {count:,}" for name, count in self.counts.items()]
        if self.vector:
            parts.append(f"label vector: {', '.join(self.vector)}")
        if self.rejects is not None:
            parts.append(f"see {self.rejects}")
        return "; ".join(parts)


class Rejects:
    """Called with each bad line and its text: raises it, or writes it down and counts it."""

    def __init__(self, on_error: OnError, open_file: Callable[[], TextIO]) -> None:
        self._on_error, self._open, self.count = on_error, open_file, 0
        self._file: TextIO | None = None

    def __call__(self, error: RecordError, text: str) -> None:
        if self._on_error == "fail":
            raise error
        self._file = self._file or self._open()
        entry = {"file": error.path, "line": error.line, "reason": error.reason, "text": text.rstrip("\n")}
        self._file.write(json.dumps(entry) + "\n")  # ASCII: whatever the text holds can be written
        self.count += 1


@dataclass
class Output:
    """Open output files by name, the rejects, and the summary that grows with them."""

    files: dict[str, TextIO]
    reject: Rejects
    summary: Summary

    def write(self, name: str, line: Line | str) -> None:
        """Write a record, or a line that ends with a newline."""
        self.files[name].write(line.to_json() + "\n" if isinstance(line, Line) else line)
        self.summary.written[name] += 1


def make_folder(folder: Path) -> None:
    """Create an output folder, if need be. Raises `InputError` if a file is in the way."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{folder}: a file is in the way; give the name of a folder") from None


@contextlib.contextmanager
def output(paths: Sequence[Path], rejects: Path, on_error: OnError) -> Iterator[Output]:
    """Files that appear under `paths` together when the block ends without an error, and `rejects` if there are any.

    Rejects of an earlier run are removed, so that what lies there always belongs to the files beside it.
    """
    for path in paths:
        if path.suffix == ".gz":
            raise InputError(f"{path}: outputs are written uncompressed; give a name without .gz")
        if path.is_dir():
            raise InputError(f"{path}: is a folder; give the name of the output file")
        make_folder(path.parent)
    summary = Summary(written={path.name: 0 for path in paths})
    with contextlib.ExitStack() as stack:
        reject = Rejects(on_error, lambda: stack.enter_context(atomic_writer(rejects)))
        with atomic_writers(*paths) as files:
            yield Output({path.name: file for path, file in zip(paths, files, strict=True)}, reject, summary)
    if reject.count:
        summary.counts["rejected"], summary.rejects = reject.count, rejects
    else:
        rejects.unlink(missing_ok=True)


def split_output(folder: Path, kind: str, on_error: OnError) -> contextlib.AbstractContextManager[Output]:
    """`train.jsonl` and `val.jsonl` of a folder, with `<kind>.rejects.jsonl` beside them."""
    return output([folder / TRAIN, folder / VAL], folder / f"{kind}.rejects.jsonl", on_error)


def single_output(path: Path, on_error: OnError) -> contextlib.AbstractContextManager[Output]:
    """One file, with `<name>.rejects.jsonl` beside it."""
    return output([path], path.with_name(f"{path.name}.rejects.jsonl"), on_error)
