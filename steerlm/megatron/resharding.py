# SPDX-License-Identifier: Apache-2.0
"""Finds the rows of one layout's parameter among the parameters of another layout. Pure: rows, columns and names.

A megatron parameter consists of blocks of rows, each a rectangle of a Hugging Face tensor (`mapping.py`). Two layouts
cut the same tensors into different rectangles; the state of one is read where they intersect. So a checkpoint to which
every process wrote its own file can be resumed with any tensor, pipeline and data parallel sizes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from steerlm.errors import ModelError
from steerlm.megatron.mapping import ModelParallelRank, Parameter, Slice, parameters
from steerlm.models.shape import ModelShape


@dataclass(frozen=True, slots=True)
class TensorBlock:
    """A rectangle of a Hugging Face tensor in a parameter. A vector has one column.

    Rows `row` to `row + rows` of the parameter are the rows from `source_row` of the tensor `name`, its columns
    `column` to `column + columns`.
    """

    name: str
    row: int
    rows: int
    source_row: int
    column: int
    columns: int


def blocks(parameter: Parameter) -> Iterator[TensorBlock]:
    """Yield a parameter's rectangles, top to bottom."""
    row = 0
    for group in range(parameter.groups):
        for part in parameter.parts:
            rows = part.rows // parameter.groups
            first = (part.start if part.dim == 0 else 0) + group * rows
            yield TensorBlock(part.name, row, rows, first, part.start if part.dim == 1 else 0, columns(part))
            row += rows


def columns(part: Slice) -> int:
    """Return the number of columns of a slice; 1 for a vector's."""
    if len(part.shape) == 1:
        return 1
    return part.stop - part.start if part.dim == 1 else part.shape[1]


def size(parameter: Parameter) -> int:
    """Return the number of elements of a parameter of one process."""
    return sum(part.rows * columns(part) for part in parameter.parts)


@dataclass(frozen=True, slots=True)
class BlockCopy:
    """A rectangle of `rows` x `columns` elements to copy from a saved parameter to the target.

    From row `source_row`, column `source_column` of `parameter` at `rank`, to row `row`, column `column` of the target.
    """

    rank: ModelParallelRank
    parameter: Parameter
    source_row: int
    source_column: int
    row: int
    column: int
    rows: int
    columns: int


class SavedLayout:
    """Every parameter of every process of the layout that wrote a checkpoint, by Hugging Face tensor."""

    def __init__(self, shape: ModelShape, tensors: int, stages: int, outputs: int | None, fused_norms: bool) -> None:
        self._blocks: dict[str, list[tuple[ModelParallelRank, Parameter, TensorBlock]]] = {}
        for stage in range(stages):
            for tensor in range(tensors):
                rank = ModelParallelRank(tensor, tensors, stage, stages)
                for parameter in parameters(shape, rank, outputs, fused_norms):
                    if not parameter.copy:
                        for block in blocks(parameter):
                            self._blocks.setdefault(block.name, []).append((rank, parameter, block))

    def copies(self, target: Parameter, first: int, last: int) -> list[BlockCopy]:
        """Return the copies that fill rows `first` to `last` (exclusive) of `target`.

        Raises `ModelError` if some of its elements were not saved.
        """
        copies: list[BlockCopy] = []
        for block in blocks(target):
            top, bottom = max(first, block.row), min(last, block.row + block.rows)
            if top < bottom:
                copies += self._fill(block, top, bottom)
        return copies

    def _fill(self, target: TensorBlock, top: int, bottom: int) -> Iterator[BlockCopy]:
        """Yield the copies that fill rows `top` to `bottom` of the target parameter, all in its block `target`."""
        low, high = target.source_row + top - target.row, target.source_row + bottom - target.row
        left, right = target.column, target.column + target.columns
        missing = (high - low) * (right - left)
        taken: set[tuple[int, int]] = set()
        for rank, parameter, block in self._blocks.get(target.name, ()):
            if (block.source_row, block.column) in taken:  # a tensor that every tensor-parallel rank holds whole
                continue
            taken.add((block.source_row, block.column))
            row0, row1 = max(low, block.source_row), min(high, block.source_row + block.rows)
            column0, column1 = max(left, block.column), min(right, block.column + block.columns)
            if row0 < row1 and column0 < column1:
                missing -= (row1 - row0) * (column1 - column0)
                yield BlockCopy(
                    rank,
                    parameter,
                    source_row=block.row + row0 - block.source_row,
                    source_column=column0 - block.column,
                    row=target.row + row0 - target.source_row,
                    column=column0 - left,
                    rows=row1 - row0,
                    columns=column1 - column0,
                )
        if missing:
            raise ModelError(f"{target.name}: {missing} of its elements are not in the checkpoint")


def by_source(copies: Sequence[BlockCopy]) -> dict[tuple[ModelParallelRank, str], list[BlockCopy]]:
    """Group the copies by the saved parameter that they read."""
    grouped: dict[tuple[ModelParallelRank, str], list[BlockCopy]] = {}
    for copy in copies:
        grouped.setdefault((copy.rank, copy.parameter.name), []).append(copy)
    return grouped
