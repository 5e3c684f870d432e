# SPDX-License-Identifier: Apache-2.0
"""Random access to the lines of many files, compressed or not: text on disk, a few bytes a line in memory.

Upstream's split shuffles whole trees, so lines are read in another order than they come in.
"""

import os
from array import array
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryFile
from typing import Self

from steerlm.datasets.raw_files import source_lines
from steerlm.datasets.row_readers import OnBadLine


class IndexedLines:
    """The lines of `files` in order, copied to an unnamed file in `folder` that is deleted on exit.

    Each line takes 24 bytes of memory, and its own length on disk.
    """

    def __init__(self, folder: Path) -> None:
        self._file = TemporaryFile(dir=folder)  # noqa: SIM115 (closed by __exit__)
        self._offsets, self._numbers, self._sources = array("q"), array("q"), array("q")
        self._paths: list[Path] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._offsets)

    def fill(self, files: Iterable[Path], on_error: OnBadLine) -> None:
        """Append every line of the files; lines that cannot be read go to `on_error`."""
        end = self._file.seek(0, os.SEEK_END)
        for path in files:
            self._paths.append(path)
            for number, line in source_lines(path, on_error):
                self._offsets.append(end)
                self._numbers.append(number)
                self._sources.append(len(self._paths) - 1)
                end += self._file.write(line.encode("utf-8"))
                if not line.endswith("\n"):
                    end += self._file.write(b"\n")

    def line(self, index: int) -> str:
        """Return the text of line `index`."""
        self._file.seek(self._offsets[index])
        return self._file.readline().decode("utf-8")

    def where(self, index: int) -> tuple[Path, int]:
        """Return the file and line number of line `index`."""
        return self._paths[self._sources[index]], self._numbers[index]
