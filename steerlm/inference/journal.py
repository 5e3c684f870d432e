# SPDX-License-Identifier: Apache-2.0
"""A line-by-line output that survives being killed at any byte, and goes on where it was.

The output grows as `NAME.partial`. Beside it `NAME.journal` gets a line, a `Mark`, whenever a block of input is done
and its output is on the disk: how many input lines were read, their hash, how many bytes of output are good. A restart
cuts the output to the newest mark, so that nothing is lost or doubled. The output gets its name when it is complete;
the journal stays beside it and tells the next run that there is nothing to do. Knows nothing of what the lines mean.
"""

import contextlib
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from steerlm.checksums import sha256_file
from steerlm.errors import InputError
from steerlm.files import atomic_writer, sync, sync_folder
from steerlm.locks import LockHeldError, hold


class OutputConflict(InputError):  # noqa: N818 (what conflicts is the output)
    """What is there under the output's name is other work: another input, model or setting, or somebody's own file."""

    def __init__(self, message: str) -> None:
        super().__init__(f"{message}; name another output, or overwrite it (--overwrite)")


class Reject(BaseModel):
    """A bad input line, its number from 1, and why it was left out."""

    model_config = ConfigDict(extra="forbid")

    line: int
    reason: str
    text: str


class Mark(BaseModel):
    """A point to go on from: `lines` input lines with hash `sha256` are done, `size` bytes of output are good.

    `method`: what decides the output's content. `counts`: totals up to here. `rejects`: of this block only.
    `output_sha256` is set on the last mark, when the output is complete.
    """

    model_config = ConfigDict(extra="forbid")

    lines: int
    sha256: str
    size: int
    method: dict[str, Any]
    counts: dict[str, int]
    rejects: list[Reject] = []
    output_sha256: str | None = None


class JournaledOutput:
    """The output file and its journal, locked against a second writer. Use as a context manager."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._partial = self.path.with_name(self.path.name + ".partial")
        self._journal_path = self.path.with_name(self.path.name + ".journal")
        self.rejects_path = self.path.with_name(self.path.name + ".rejects")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as opened:
            self._lock(opened)
            self._journal: IO[bytes] = opened.enter_context(self._journal_path.open("a+b"))
            self.mark = self._newest_mark()
            self._opened = opened.pop_all()
        self._output: IO[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._output:
            self._output.close()
        self._journal.flush()
        if os.fstat(self._journal.fileno()).st_size == 0:  # nothing is worth going on from: leave no trace
            self._partial.unlink(missing_ok=True)
            self._journal_path.unlink(missing_ok=True)
        self._opened.close()

    @property
    def complete(self) -> bool:
        return self.mark is not None and self.mark.output_sha256 is not None

    def begin(self) -> None:
        """Open the output for more, cut to the newest mark."""
        if self.path.exists():
            raise OutputConflict(f"{self.path} exists and was not made by this command")
        self._output = self._partial.open("ab")
        self._output.truncate(self.mark.size if self.mark else 0)

    def commit(self, text: str, mark: Mark) -> None:
        """Add a block of output and the mark that makes it good; `mark.size` is filled in."""
        assert self._output is not None
        self._output.write(text.encode())
        sync(self._output)
        self._append(mark.model_copy(update={"size": self._output.tell()}))

    def finish(self, mark: Mark) -> None:
        """Mark the output complete and give it its name."""
        assert self._output is not None
        self._output.close()
        self._output = None
        size = self._partial.stat().st_size
        self._append(mark.model_copy(update={"size": size, "output_sha256": sha256_file(self._partial)}))
        self.settle()

    def settle(self) -> None:
        """Name the files of a complete output; a kill may have come between the last mark and the naming.

        Raises `OutputConflict` if the output was changed since.
        """
        assert self.mark is not None
        if self._partial.exists():
            self._write_rejects()
            self._partial.replace(self.path)
            sync_folder(self.path.parent)
        elif self.path.stat().st_size != self.mark.size or sha256_file(self.path) != self.mark.output_sha256:
            raise OutputConflict(f"{self.path} was changed after it was made")

    def _write_rejects(self) -> None:
        rejects = (reject for _, mark in self._marks() for reject in mark.rejects)
        first = next(rejects, None)
        if first is None:
            self.rejects_path.unlink(missing_ok=True)
            return
        with atomic_writer(self.rejects_path) as file:
            for reject in itertools.chain([first], rejects):
                file.write(json.dumps(reject.model_dump()) + "\n")

    def _lock(self, opened: contextlib.ExitStack) -> None:
        try:
            opened.enter_context(hold(self._journal_path, wait=False, sign=False))
        except LockHeldError as error:
            raise InputError(f"{self.path} is being written by {error.holder}; wait for it or name another") from None

    def _append(self, mark: Mark) -> None:
        self._journal.write(mark.model_dump_json().encode() + b"\n")
        sync(self._journal)
        self.mark = mark

    def _marks(self) -> Iterator[tuple[int, Mark]]:
        """Where each whole line ends, and its mark. The last line may be cut off by a kill: that one is none."""
        self._journal.seek(0)
        end = 0
        for number, line in enumerate(self._journal, 1):
            if not line.endswith(b"\n"):
                return
            end += len(line)
            try:
                yield end, Mark.model_validate_json(line)
            except ValidationError:
                raise OutputConflict(f"{self._journal_path}:{number}: not a mark of this command") from None

    def _newest_mark(self) -> Mark | None:
        """The newest mark whose output is there; the journal is cut behind it."""
        size = self._partial.stat().st_size if self._partial.exists() else 0
        newest, keep = None, 0
        for end, mark in self._marks():
            named = mark.output_sha256 is not None and self.path.exists()
            if mark.size <= size or named:
                newest, keep = mark, end
        self._journal.truncate(keep)
        return newest


def discard(path: Path) -> None:
    """Remove an output, begun or complete, with what stands beside it."""
    for end in ("", ".partial", ".journal", ".rejects"):
        path.with_name(path.name + end).unlink(missing_ok=True)
