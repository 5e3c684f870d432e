# SPDX-License-Identifier: Apache-2.0
"""The folder of a training's checkpoints: which exist, are complete, are kept. Never reads their content."""

import re
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from steerlm.attempt import check_current

CHECKPOINTS = "checkpoints"
"""The folder's name, in a training's work folder."""
COMPLETE = "COMPLETE"
"""The file that an engine writes last into a checkpoint; a folder without it is left over from a save that failed."""

DELETED = ".deleted-"
"""Prefix of a checkpoint that is being deleted."""


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """`folder/step-000123/`. Only the main rank deletes, in a thread, because a checkpoint may be a terabyte."""

    folder: Path
    keep: int
    is_main_rank: bool

    def path(self, step: int) -> Path:
        """Return the folder of the checkpoint of a step, whether or not it exists."""
        return self.folder / f"step-{step:06d}"

    def complete(self) -> list[int]:
        """Return the steps of the complete checkpoints, ascending."""
        return sorted(step for step, path in self._all() if (path / COMPLETE).exists())

    def clean(self) -> None:
        """Delete what failed saves and interrupted deletions have left."""
        if self.is_main_rank and self.folder.is_dir():
            incomplete = [path for _, path in self._all() if not (path / COMPLETE).exists()]
            self._delete(incomplete, [*self.folder.glob(f"{DELETED}*")])

    def prune(self, best: int | None) -> None:
        """Delete all but the newest `keep` checkpoints and the best."""
        if self.is_main_rank:
            self._delete([self.path(step) for step in self.complete()[: -self.keep] if step != best])

    def _delete(self, checkpoints: list[Path], renamed: list[Path] | None = None) -> None:
        """Rename the folders at once, and delete them and those in `renamed` in the background.

        Raises `SupersededError`: they may be a later attempt's.
        """
        check_current()
        doomed = renamed or []
        for path in checkpoints:
            # Renamed first: an interrupted deletion must not leave a folder that looks like a whole checkpoint.
            doomed.append(path.rename(path.with_name(f"{DELETED}{path.name}-{time.time_ns()}")))
        if doomed:
            threading.Thread(target=_remove, args=(doomed,), name="delete checkpoints").start()

    def _all(self) -> list[tuple[int, Path]]:
        if not self.folder.is_dir():
            return []
        named = ((re.fullmatch(r"step-(\d+)", path.name), path) for path in self.folder.iterdir())
        return [(int(match[1]), path) for match, path in named if match]


def _remove(folders: list[Path]) -> None:
    for path in folders:
        shutil.rmtree(path, ignore_errors=True)
