# SPDX-License-Identifier: Apache-2.0
"""Pieces of a result, each in a file of its own that appears when it is complete.

A piece is named by where it begins, not by who makes it: any number of processes fill a folder together, a later run
goes on with what is there whatever its number of processes, and a kill costs the pieces that were being made. No lock
is needed: two processes that make the same piece write the same bytes.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steerlm.files import atomic_writer


class Parts:
    """A folder of pieces. A file holds one line of JSON about the piece, then the piece."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __contains__(self, start: int) -> bool:
        return self._path(start).exists()

    def write(self, start: int, about: Mapping[str, Any], text: str) -> None:
        """Add the piece that begins at `start`."""
        header = {"sha256": hashlib.sha256(text.encode()).hexdigest(), **about}
        with atomic_writer(self._path(start)) as file:
            file.write(json.dumps(header) + "\n")
            file.write(text)

    def read(self, start: int) -> tuple[dict[str, Any], str] | None:
        """What is said about a piece, and the piece; None if there is none. A damaged file is removed and is none."""
        path = self._path(start)
        if not path.exists():
            return None
        head, _, body = path.read_bytes().partition(b"\n")
        try:
            about: dict[str, Any] = json.loads(head)
            if about["sha256"] == hashlib.sha256(body).hexdigest():
                return about, body.decode()
        except (ValueError, KeyError, TypeError):
            pass
        path.unlink()
        return None

    def _path(self, start: int) -> Path:
        return self.folder / f"{start:012d}.part"
