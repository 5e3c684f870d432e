# SPDX-License-Identifier: Apache-2.0
"""Random access to the lines of many files, compressed or not: the text on disk, a few bytes a line in memory.

Upstream's split shuffles whole trees, so lines are needed in another order than they come in.
"""

import os
from array import array
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryFile
from typing import Self

from steerlm.datasets.sources import OnBadLine, source_lines


class Spool:
    """The lines of `files` in order, copied to an unnamed file in `folder` that vanishes with the object.

    Takes 24 bytes of memory and the line's own length on disk for each line.
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
        self._file.seek(self._offsets[index])
        return self._file.readline().decode("utf-8")

    def where(self, index: int) -> tuple[Path, int]:
        """File and line number that line `index` came from."""
        return self._paths[self._sources[index]], self._numbers[index]
