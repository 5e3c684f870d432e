# SPDX-License-Identifier: Apache-2.0
"""A line-by-line output that can be killed at any byte and resumed.

The output grows as `NAME.partial`. After each block of input whose output is on the disk, `NAME.journal` gets a line, a
`JournalEntry`: the number of input lines read, their hash, and the number of valid output bytes. A restart truncates
the output to the newest entry, so that nothing is lost or written twice. The output gets its name when it is complete,
and the journal is removed. Its last entry stays beside the output as the hidden file `.NAME.annotated`, so that the
next run does nothing.
"""

import contextlib
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Self

from pydantic import ValidationError

from steerlm.checksums import sha256_file
from steerlm.errors import InputError
from steerlm.files import atomic_writer, sync, sync_folder, write_json
from steerlm.locks import LockHeldError, hold
from steerlm.settings import Settings


class OutputConflict(InputError):  # noqa: N818 (the output is in conflict)
    """The existing output is of another input, model or setting, or was not written by this command."""

    def __init__(self, message: str) -> None:
        super().__init__(f"{message}; name another output, or overwrite it (--overwrite)")


class RejectedLine(Settings):
    """A bad input line that was skipped: its number from 1, the reason and its text."""

    line: int
    reason: str
    text: str


class JournalEntry(Settings):
    """A point to resume from.

    Attributes:
        lines: Input lines that are done.
        sha256: SHA-256 of these lines.
        size: Bytes of the output that are valid.
        method: The settings and the model that decide the output's content.
        scored_by: Where the scores up to here were computed, see `scored_by` in `annotate.py`: their last digits may
            depend on it.
        counts: Totals up to here.
        rejects: The rejected lines since the previous entry.
        output_sha256: SHA-256 of the complete output, on the last entry only.
    """

    lines: int
    sha256: str
    size: int
    method: dict[str, Any]
    counts: dict[str, int]
    scored_by: tuple[str, ...] = ()
    rejects: tuple[RejectedLine, ...] = ()
    output_sha256: str | None = None


class JournaledOutput:
    """The output file and its journal, locked against a second writer. Use as a context manager."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._partial = self.path.with_name(self.path.name + ".partial")
        self._journal_path = self.path.with_name(self.path.name + ".journal")
        self._record_path = _record_path(self.path)
        self.rejects_path = self.path.with_name(self.path.name + ".rejects")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as opened:
            self._lock(opened)
            self._journal: IO[bytes] = opened.enter_context(self._journal_path.open("a+b"))
            self.entry = self._newest_entry()
            self._opened = opened.pop_all()
        self._output: IO[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._output:
            self._output.close()
        self._journal.flush()
        if os.fstat(self._journal.fileno()).st_size == 0:  # nothing to resume from: leave no files
            self._partial.unlink(missing_ok=True)
            self._journal_path.unlink(missing_ok=True)
        self._opened.close()

    @property
    def complete(self) -> bool:
        """Whether the newest journal entry has the checksum of the finished output."""
        return self.entry is not None and self.entry.output_sha256 is not None

    def open(self) -> None:
        """Open the output for appending, truncated to the newest entry."""
        if self.path.exists():
            raise OutputConflict(f"{self.path} exists and was not written by this command")
        self._output = self._partial.open("ab")
        self._output.truncate(self.entry.size if self.entry else 0)

    def commit(self, text: str, entry: JournalEntry) -> None:
        """Append a block of output, then its journal entry, whose `size` is filled in."""
        assert self._output is not None
        self._held.check()
        self._output.write(text.encode())
        sync(self._output)
        self._append(entry.model_copy(update={"size": self._output.tell()}))

    def finish(self, entry: JournalEntry) -> None:
        """Add the last entry and give the complete output its name."""
        assert self._output is not None
        self._output.close()
        self._output = None
        size = self._partial.stat().st_size
        self._append(entry.model_copy(update={"size": size, "output_sha256": sha256_file(self._partial)}))
        self.settle()

    def settle(self) -> None:
        """Give a complete output its name and remove the journal, if a kill came after its last entry.

        Raises:
            OutputConflict: The output was changed since.
        """
        assert self.entry is not None
        self._held.check()
        if self._partial.exists():
            self._write_rejects()
            self._partial.replace(self.path)
            sync_folder(self.path.parent)
        elif self.path.stat().st_size != self.entry.size or sha256_file(self.path) != self.entry.output_sha256:
            raise OutputConflict(f"{self.path} was changed after it was written")
        if os.fstat(self._journal.fileno()).st_size:
            write_json(self._record_path, self.entry.model_dump(mode="json"))
            self._journal.truncate(0)  # an empty one is removed on leaving

    def _write_rejects(self) -> None:
        rejects = (reject for _, entry in self._entries() for reject in entry.rejects)
        first = next(rejects, None)
        if first is None:
            self.rejects_path.unlink(missing_ok=True)
            return
        with atomic_writer(self.rejects_path) as file:
            for reject in itertools.chain([first], rejects):
                file.write(json.dumps(reject.model_dump()) + "\n")

    def _lock(self, opened: contextlib.ExitStack) -> None:
        try:
            self._held = opened.enter_context(hold(self._journal_path, wait=False, sign=False))
        except LockHeldError as error:
            raise InputError(
                f"{self.path} is being written by {error.holder}; wait for it, or choose another"
            ) from None

    def _append(self, entry: JournalEntry) -> None:
        self._journal.write(entry.model_dump_json().encode() + b"\n")
        sync(self._journal)
        self.entry = entry

    def _entries(self) -> Iterator[tuple[int, JournalEntry]]:
        """Yield the end of each complete line, in bytes, and its entry. A last line cut off by a kill is ignored."""
        self._journal.seek(0)
        end = 0
        for number, line in enumerate(self._journal, 1):
            if not line.endswith(b"\n"):
                return
            end += len(line)
            try:
                yield end, JournalEntry.model_validate_json(line)
            except ValidationError:
                raise OutputConflict(f"{self._journal_path}:{number}: not a journal entry of this command") from None

    def _newest_entry(self) -> JournalEntry | None:
        """Return the newest entry whose output is on the disk, and truncate the journal after it."""
        size = self._partial.stat().st_size if self._partial.exists() else 0
        newest, keep = None, 0
        for end, entry in self._entries():
            named = entry.output_sha256 is not None and self.path.exists()
            if entry.size <= size or named:
                newest, keep = entry, end
        self._journal.truncate(keep)
        return newest or self._record()

    def _record(self) -> JournalEntry | None:
        """Return the last entry of a complete output's journal, which was removed."""
        if not (self.path.exists() and self._record_path.exists()):
            return None
        try:
            return JournalEntry.model_validate_json(self._record_path.read_bytes())
        except ValidationError:
            raise OutputConflict(f"{self._record_path}: not a record of this command") from None


def _record_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.annotated")


def discard(path: Path) -> None:
    """Remove an output, complete or not, with its journal, record and rejects file."""
    _record_path(path).unlink(missing_ok=True)
    for end in ("", ".partial", ".journal", ".rejects"):
        path.with_name(path.name + end).unlink(missing_ok=True)
