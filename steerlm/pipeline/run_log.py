# SPDX-License-Identifier: Apache-2.0
"""The run log: a file of JSON lines that every step of a run appends to, and that terminal and tracking read.

Steps are processes of their own (or pods), so they share a file. Events: `plan` (the steps that
will run), `step` (a step's process started), `start` and
`end` (a stage is executed), `progress`, `outcome` (hit, run, resumed, skipped, failed or stopped).
"""

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


class RunLog:
    """Appends events to a run log; without a path, discards them."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def emit(self, event: str, label: str, **fields: Any) -> None:
        """Append an event of the step `label`. The fields are JSON values."""
        if self.path is None:
            return
        line = json.dumps({"event": event, "label": label, "time": time.time(), "pid": os.getpid(), **fields})
        with open(self.path, "a", encoding="utf-8") as file:  # one short write: lines of several processes stay whole
            file.write(line + "\n")

    def start(self, label: str, stage: str, key: str, folder: Path, parts: Mapping[str, Any]) -> None:
        """Record that a stage is executed in `folder`. `parts`: what its key is made of."""
        self.emit("start", label, stage=stage, key=key, folder=str(folder), parts=dict(parts))

    def end(
        self,
        label: str,
        key: str,
        state: str,
        metrics: Mapping[str, float],
        digest: str | None,
        folder: Path | None = None,
    ) -> None:
        """Record the end of a stage.

        Args:
            label: The step.
            key: The artifact's key.
            state: One of MLflow's: FINISHED, FAILED or KILLED.
            metrics: The stage's final numbers.
            digest: The artifact's digest, if it is finished.
            folder: Where the stage's logs are now, if not where it started.
        """
        moved = {} if folder is None else {"folder": str(folder)}
        self.emit("end", label, key=key, state=state, metrics=dict(metrics), digest=digest, **moved)


class RunLogReader:
    """Reads a run log, or any file of JSON lines, while it grows.

    A truncated or replaced file is read again from its start.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._offset, self._inode = path, 0, 0

    def new(self) -> Iterator[dict[str, Any]]:
        """Yield the complete lines appended since the last call."""
        if not self.path.exists():
            return
        with open(self.path, "rb") as file:
            status = os.fstat(file.fileno())
            if status.st_ino != self._inode or status.st_size < self._offset:
                self._inode, self._offset = status.st_ino, 0
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                yield json.loads(line)
