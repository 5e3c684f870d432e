# SPDX-License-Identifier: Apache-2.0
"""The journal of a run: a file of JSON lines that every step appends to, and that terminal and tracking read.

Steps are processes of their own (or pods), so a file is what they share. Events: `step` (a step's process began),
`start` and `end` (a stage really runs), `progress`, `outcome` (hit, run, resumed, skipped, failed or stopped).
"""

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


class RunLog:
    """Appends to a journal; without a path, forgets everything."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def emit(self, event: str, label: str, **fields: Any) -> None:
        if self.path is None:
            return
        line = json.dumps({"event": event, "label": label, "time": time.time(), "pid": os.getpid(), **fields})
        with open(self.path, "a", encoding="utf-8") as file:  # one short write: lines of several processes stay whole
            file.write(line + "\n")

    def start(self, label: str, stage: str, key: str, folder: Path, parts: Mapping[str, Any]) -> None:
        self.emit("start", label, stage=stage, key=key, folder=str(folder), parts=dict(parts))

    def end(self, label: str, key: str, state: str, metrics: Mapping[str, float], digest: str | None) -> None:
        """`state` in MLflow's words: FINISHED, FAILED or KILLED."""
        self.emit("end", label, key=key, state=state, metrics=dict(metrics), digest=digest)


class RunLogReader:
    """Reads a journal, or any file of JSON lines, as it grows; one that was cut back is read anew from its start."""

    def __init__(self, path: Path) -> None:
        self.path, self._offset = path, 0

    def new(self) -> Iterator[dict[str, Any]]:
        """The complete lines that came since the last call."""
        if not self.path.exists():
            return
        with open(self.path, "rb") as file:
            if file.seek(0, os.SEEK_END) < self._offset:
                self._offset = 0
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                yield json.loads(line)
