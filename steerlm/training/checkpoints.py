# SPDX-License-Identifier: Apache-2.0
"""Which checkpoints there are, which are valid, and which are kept. Knows names and the marker, not what is inside."""

import re
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path

COMPLETE = "COMPLETE"
"""The file an engine writes last into a checkpoint; without it, the folder is the trace of a save that died."""

DELETED = ".deleted-"


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """`folder/step-000123/`. Only the main rank deletes, in a thread: a checkpoint may be a terabyte."""

    folder: Path
    keep: int
    is_main_rank: bool

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}"

    def complete(self) -> list[int]:
        """Steps of the valid checkpoints, in order."""
        return sorted(step for step, path in self._all() if (path / COMPLETE).exists())

    def clean(self) -> None:
        """Delete what saves and deletions that died have left."""
        if self.is_main_rank and self.folder.is_dir():
            left = [path for _, path in self._all() if not (path / COMPLETE).exists()]
            self._delete(left, [*self.folder.glob(f"{DELETED}*")])

    def prune(self, best: int | None) -> None:
        """Keep the newest `keep` and the best."""
        if self.is_main_rank:
            self._delete([self.path(step) for step in self.complete()[: -self.keep] if step != best])

    def _delete(self, checkpoints: list[Path], renamed: list[Path] | None = None) -> None:
        """Take the folders out of sight at once, and delete them in the background."""
        gone = renamed or []
        for path in checkpoints:
            # Renamed first: a deletion that is cut short must not leave a checkpoint that looks whole.
            gone.append(path.rename(path.with_name(f"{DELETED}{path.name}-{time.time_ns()}")))
        if gone:
            threading.Thread(target=_remove, args=(gone,), name="delete checkpoints").start()

    def _all(self) -> list[tuple[int, Path]]:
        if not self.folder.is_dir():
            return []
        named = ((re.fullmatch(r"step-(\d+)", path.name), path) for path in self.folder.iterdir())
        return [(int(match[1]), path) for match, path in named if match]


def _remove(folders: list[Path]) -> None:
    for path in folders:
        shutil.rmtree(path, ignore_errors=True)
