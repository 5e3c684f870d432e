"""Which checkpoints there are, which are valid, and which are kept. Knows names and the marker, not what is inside."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

COMPLETE = "COMPLETE"
"""The file an engine writes last into a checkpoint; without it, the folder is the trace of a save that died."""


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """`folder/step-000123/`. Only the process with `chief` deletes."""

    folder: Path
    keep: int
    chief: bool

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}"

    def complete(self) -> list[int]:
        """Steps of the valid checkpoints, in order."""
        return sorted(step for step, path in self._all() if (path / COMPLETE).exists())

    def clean(self) -> None:
        """Delete what saves that died have left."""
        for _, path in self._all():
            if self.chief and not (path / COMPLETE).exists():
                shutil.rmtree(path)

    def prune(self, best: int | None) -> None:
        """Keep the newest `keep` and the best."""
        if not self.chief:
            return
        steps = self.complete()
        for step in steps[: -self.keep]:
            if step != best:
                # The marker goes first: a deletion that is cut short must not leave a checkpoint that looks whole.
                (self.path(step) / COMPLETE).unlink()
                shutil.rmtree(self.path(step))

    def _all(self) -> list[tuple[int, Path]]:
        if not self.folder.is_dir():
            return []
        named = ((re.fullmatch(r"step-(\d+)", path.name), path) for path in self.folder.iterdir())
        return [(int(match[1]), path) for match, path in named if match]
