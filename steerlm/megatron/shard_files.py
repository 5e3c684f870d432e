# SPDX-License-Identifier: Apache-2.0
"""The tensors of a checkpoint as safetensors files, one a process: written whole, read in ranges by any layout.

`tensor-T-stage-S-replica-R.safetensors` holds ranges of the parameters of the model-parallel process (T, S), flattened:
tensor `STATE/PARAMETER`, its first and last element in the file's metadata. Replicas together cover every parameter.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from steerlm.attempt import check_current
from steerlm.errors import ModelError
from steerlm.files import atomic_path
from steerlm.megatron.mapping import ModelParallelRank, Parameter
from steerlm.megatron.resharding import SavedLayout, by_source, columns

NAME = re.compile(r"tensor-(\d+)-stage-(\d+)-replica-(\d+)\.safetensors")
Range = tuple[int, int]


def file_name(rank: ModelParallelRank, replica: int) -> str:
    """Return the name of the file of a model-parallel rank and its data-parallel replica."""
    return f"tensor-{rank.tensor:02d}-stage-{rank.stage:02d}-replica-{replica:04d}.safetensors"


def write(path: Path, tensors: Mapping[str, torch.Tensor], ranges: Mapping[str, Range]) -> None:
    """Write one process's CPU tensors, named `STATE/PARAMETER`; `ranges`: the range held of each parameter.

    Raises `OSError`, `SafetensorError`, `SupersededError`.
    """
    text = json.dumps({name: list(kept) for name, kept in ranges.items()})
    try:
        with atomic_path(path) as partial:
            save_file(dict(tensors), partial, metadata={"ranges": text})
            check_current()  # a later attempt may have written the same file meanwhile
    except OSError:
        check_current()  # or it has emptied the folder
        raise


@dataclass(frozen=True, slots=True)
class _File:
    """An open file and the range that it holds of each parameter."""

    handle: Any
    ranges: dict[str, Range]


class ShardFiles:
    """The files of a folder, opened when first read. Use as a context manager."""

    def __init__(self, folder: Path, layout: SavedLayout) -> None:
        self.folder, self.layout = folder, layout
        self._stack = ExitStack()
        self._open: dict[tuple[int, int], list[_File]] = {}
        self._paths: dict[tuple[int, int], list[Path]] = {}
        for path in sorted(folder.iterdir()):
            if match := NAME.fullmatch(path.name):
                self._paths.setdefault((int(match[1]), int(match[2])), []).append(path)

    def __enter__(self) -> "ShardFiles":
        return self

    def __exit__(self, *_: object) -> None:
        self._open.clear()
        self._stack.close()

    def read(self, parameter: Parameter, start: int, stop: int, state: str) -> torch.Tensor:
        """Return elements `start` to `stop` of a flattened parameter of this process, in the saved dtype.

        Raises `ModelError` if some are not in any file.
        """
        width = columns(parameter.parts[0])
        first, last = start // width, -(-stop // width)
        filled: torch.Tensor | None = None
        for (rank, name), copies in by_source(self.layout.copies(parameter, first, last)).items():
            saved = columns(copies[0].parameter.parts[0])
            top = min(copy.source_row for copy in copies)
            bottom = max(copy.source_row + copy.rows for copy in copies)
            rows = self._saved(rank, name, top * saved, bottom * saved, state).view(-1, saved)
            if filled is None:
                filled = rows.new_empty(last - first, width)
            for copy in copies:
                part = rows[copy.source_row - top :][: copy.rows, copy.source_column :][:, : copy.columns]
                filled[copy.row - first :][: copy.rows, copy.column :][:, : copy.columns] = part
        assert filled is not None, "a range has at least one element"
        return filled.view(-1)[start - first * width : stop - first * width]

    def _saved(self, rank: ModelParallelRank, name: str, start: int, stop: int, state: str) -> torch.Tensor:
        """Return a range of a saved parameter, assembled from the files of the replicas."""
        parts, at = [], start
        for low, high, file in sorted(self._holding(rank, name), key=lambda held: held[0]):
            if low <= at < high and at < stop:
                until = min(stop, high)
                parts.append(file.get_slice(f"{state}/{name}")[at - low : until - low])
                at = until
        if at < stop:
            raise ModelError(f"{self.folder}: elements {at} to {stop} of {state}/{name} are not in any file")
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _holding(self, rank: ModelParallelRank, name: str) -> Iterator[tuple[int, int, Any]]:
        key = (rank.tensor, rank.stage)
        if key not in self._open:
            self._open[key] = [self._opened(path) for path in self._paths.get(key, ())]
        for file in self._open[key]:
            if name in file.ranges:
                yield *file.ranges[name], file.handle

    def _opened(self, path: Path) -> _File:
        handle = self._stack.enter_context(safe_open(path, framework="pt"))
        ranges = json.loads(handle.metadata()["ranges"])
        return _File(handle, {name: (kept[0], kept[1]) for name, kept in ranges.items()})
