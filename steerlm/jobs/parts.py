# SPDX-License-Identifier: Apache-2.0
"""Parts of a result, each in its own file that appears when it is complete.

A part is named by its position in the result, not by its writer. So any number of processes fill a folder together, a
later run with another number of processes uses what is there, and a kill costs only the unfinished parts. No lock is
needed: two processes that write the same part write the same bytes.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steerlm.attempt import check_current
from steerlm.files import atomic_writer

SUFFIX = ".part"


class Parts:
    """A folder of parts. Each file is one line of JSON, the header, followed by the part's text."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __contains__(self, position: int) -> bool:
        return self._path(position).exists()

    def count(self) -> int:
        """Return how many parts there are, complete or damaged."""
        return sum(1 for _ in self.folder.glob(f"*{SUFFIX}"))

    def lacks(self, count: int) -> bool:
        """Return whether any of the first `count` parts is missing."""
        return not all(position in self for position in range(count))

    def write(self, position: int, header: Mapping[str, Any], text: str) -> None:
        """Add the part at a position. Raises `SupersededError` in a worker whose attempt is not the current one."""
        checked = {"sha256": hashlib.sha256(text.encode()).hexdigest(), **header}
        with atomic_writer(self._path(position)) as file:
            file.write(json.dumps(checked) + "\n")
            file.write(text)
            check_current()

    def read(self, position: int) -> tuple[dict[str, Any], str] | None:
        """Return a part's header and text, or None if it does not exist. A damaged file is removed and gives None."""
        path = self._path(position)
        if not path.exists():
            return None
        line, _, body = path.read_bytes().partition(b"\n")
        try:
            header: dict[str, Any] = json.loads(line)
            if header["sha256"] == hashlib.sha256(body).hexdigest():
                return header, body.decode()
        except (ValueError, KeyError, TypeError):
            pass
        path.unlink()
        return None

    def _path(self, position: int) -> Path:
        return self.folder / f"{position:012d}{SUFFIX}"
