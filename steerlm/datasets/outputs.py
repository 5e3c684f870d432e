# SPDX-License-Identifier: Apache-2.0
"""The output of every preparation: files that appear together, the rejects beside them, a summary of counts.

Applies the policy for bad lines; what makes a line bad, its callers decide.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TextIO

from steerlm.dropped import Dropped
from steerlm.errors import InputError, RecordError
from steerlm.files import atomic_writer, atomic_writers
from steerlm.records import Line

TRAIN, VAL = "train.jsonl", "val.jsonl"
OnError = Literal["fail", "skip"]
"""Whether a bad line ends the run, or is counted and written to the rejects beside the output."""


@dataclass
class Summary:
    """Counts of a preparation.

    Attributes:
        written: Lines by file name.
        counts: Rows that were read, dropped or skipped, by a short description.
        vector: The attributes of the label vectors in order, if samples were written.
        rejects: The file of rejected lines, if there are any.
        notes: Warnings for the user.
        kept: Rows of which something was made, or which have nothing to make anything of.
        dropped: Rows that were left out because something is wrong with them.
    """

    written: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    kept: int = 0
    dropped: int = 0
    vector: tuple[str, ...] = ()
    rejects: Path | None = None
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, number: int = 1) -> None:
        """Add `number` to the count of that name."""
        self.counts[name] = self.counts.get(name, 0) + number

    def left_out(self, where: str) -> Dropped:
        """Return which part of the input `where` was dropped."""
        return Dropped(where, self.dropped, self.kept + self.dropped, "rows", "see the counts and the rejects")

    def __str__(self) -> str:
        parts = [f"{name}: {count:,} lines" for name, count in self.written.items()]
        parts += [f"{name} {count:,}" for name, count in self.counts.items()]
        if self.vector:
            parts.append(f"label vector: {', '.join(self.vector)}")
        if self.rejects is not None:
            parts.append(f"see {self.rejects}")
        return "; ".join(parts)


class Rejects:
    """Called with each bad line and its text: raises the error, or records and counts the line."""

    def __init__(self, on_error: OnError, open_file: Callable[[], TextIO]) -> None:
        self._on_error, self._open, self.count = on_error, open_file, 0
        self.first: RecordError | None = None
        self._file: TextIO | None = None

    def __call__(self, error: RecordError, text: str) -> None:
        """Raise the error if bad lines fail; otherwise write the line with its place and reason to the rejects."""
        if self._on_error == "fail":
            raise error
        self.first = self.first or error
        self._file = self._file or self._open()
        entry = {"file": error.path, "line": error.line, "reason": error.reason, "text": text.rstrip("\n")}
        self._file.write(json.dumps(entry) + "\n")  # ASCII: any text can be written
        self.count += 1


@dataclass
class Output:
    """Open output files by name, the rejects, and the summary that counts what is written."""

    files: dict[str, TextIO]
    reject: Rejects
    summary: Summary

    def write(self, name: str, line: Line | str) -> None:
        """Write a record, or a line that ends with a newline."""
        self.files[name].write(line.to_json() + "\n" if isinstance(line, Line) else line)
        self.summary.written[name] += 1

    def require_some(self, source: object) -> None:
        """Raise `InputError` with the reason if nothing was written of a source."""
        if any(self.summary.written.values()):
            return
        if self.reject.first is not None:
            reason = f"all {self.reject.count:,} lines were rejected, the first: {self.reject.first}"
        elif counts := {name: count for name, count in self.summary.counts.items() if count}:
            reason = "nothing could be made of it: " + ", ".join(f"{name} {count:,}" for name, count in counts.items())
        else:
            reason = "has no rows"
        raise InputError(f"{source}: {reason}")


def make_folder(folder: Path) -> None:
    """Create an output folder if it does not exist. Raises `InputError` if a file has its name."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{folder}: a file has this name; give the name of a folder") from None


@contextlib.contextmanager
def output(paths: Sequence[Path], rejects: Path, on_error: OnError) -> Iterator[Output]:
    """Yield open files that appear under `paths` together when the block ends without an error; also `rejects`, if any.

    Rejects of an earlier run are removed, so that a rejects file always belongs to the files beside it.
    """
    for path in paths:
        if path.suffix == ".gz":
            raise InputError(f"{path}: outputs are not compressed; give a name without .gz")
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
        summary.dropped += reject.count
    else:
        rejects.unlink(missing_ok=True)


def split_output(folder: Path, kind: str, on_error: OnError) -> contextlib.AbstractContextManager[Output]:
    """Yield `train.jsonl` and `val.jsonl` of a folder, with `<kind>.rejects.jsonl` beside them."""
    return output([folder / TRAIN, folder / VAL], folder / f"{kind}.rejects.jsonl", on_error)


def single_output(path: Path, on_error: OnError) -> contextlib.AbstractContextManager[Output]:
    """Yield one file, with `<name>.rejects.jsonl` beside it."""
    return output([path], path.with_name(f"{path.name}.rejects.jsonl"), on_error)
