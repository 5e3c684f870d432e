# SPDX-License-Identifier: Apache-2.0
"""Where a piece of one layout's parameter is found among another layout's parameters. Pure: rows, columns and names.

A megatron parameter is, row block by row block, a rectangle of some Hugging Face tensor (`mapping.py`). Two layouts cut
the same tensors into other rectangles; what they share is where the state of one is read for the other. This is what
lets a checkpoint that every process wrote by itself be resumed with any tensor, pipeline and data parallel sizes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from steerlm.errors import ModelError
from steerlm.megatron.mapping import Parameter, Place, Slice, parameters
from steerlm.models.shape import ModelShape


@dataclass(frozen=True, slots=True)
class Block:
    """Rows `row` to `row + rows` of a parameter: rows `source_row` on of the Hugging Face tensor `name`, its columns
    `column` to `column + columns`. A vector has one column."""

    name: str
    row: int
    rows: int
    source_row: int
    column: int
    columns: int


def blocks(parameter: Parameter) -> Iterator[Block]:
    """A parameter's rectangles, top to bottom."""
    row = 0
    for group in range(parameter.groups):
        for part in parameter.parts:
            rows = part.rows // parameter.groups
            first = (part.start if part.dim == 0 else 0) + group * rows
            yield Block(part.name, row, rows, first, part.start if part.dim == 1 else 0, columns(part))
            row += rows


def columns(part: Slice) -> int:
    """Columns of a slice; 1 for a vector's."""
    if len(part.shape) == 1:
        return 1
    return part.stop - part.start if part.dim == 1 else part.shape[1]


def size(parameter: Parameter) -> int:
    """Elements of a parameter of one process."""
    return sum(part.rows * columns(part) for part in parameter.parts)


@dataclass(frozen=True, slots=True)
class Copy:
    """`rows` rows of `columns` numbers: from row `source_row`, column `source_column` of `parameter` at `place`, to row
    `row`, column `column` of the wanted one."""

    place: Place
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
        self._found: dict[str, list[tuple[Place, Parameter, Block]]] = {}
        for stage in range(stages):
            for tensor in range(tensors):
                place = Place(tensor, tensors, stage, stages)
                for parameter in parameters(shape, place, outputs, fused_norms):
                    if not parameter.copy:
                        for block in blocks(parameter):
                            self._found.setdefault(block.name, []).append((place, parameter, block))

    def copies(self, wanted: Parameter, first: int, last: int) -> list[Copy]:
        """What fills rows `first` to `last` (exclusive) of `wanted`. Raises `ModelError` if something is not there."""
        found: list[Copy] = []
        for target in blocks(wanted):
            top, bottom = max(first, target.row), min(last, target.row + target.rows)
            if top < bottom:
                found += self._fill(target, top, bottom)
        return found

    def _fill(self, target: Block, top: int, bottom: int) -> Iterator[Copy]:
        """Rows `top` to `bottom` of the wanted parameter, which lie in its block `target`."""
        low, high = target.source_row + top - target.row, target.source_row + bottom - target.row
        left, right = target.column, target.column + target.columns
        missing = (high - low) * (right - left)
        taken: set[tuple[int, int]] = set()
        for place, parameter, block in self._found.get(target.name, ()):
            if (block.source_row, block.column) in taken:  # a tensor that every tensor-parallel process holds whole
                continue
            taken.add((block.source_row, block.column))
            row0, row1 = max(low, block.source_row), min(high, block.source_row + block.rows)
            column0, column1 = max(left, block.column), min(right, block.column + block.columns)
            if row0 < row1 and column0 < column1:
                missing -= (row1 - row0) * (column1 - column0)
                yield Copy(
                    place,
                    parameter,
                    source_row=block.row + row0 - block.source_row,
                    source_column=column0 - block.column,
                    row=target.row + row0 - target.source_row,
                    column=column0 - left,
                    rows=row1 - row0,
                    columns=column1 - column0,
                )
        if missing:
            raise ModelError(f"{target.name}: {missing} of its numbers are in no part of the checkpoint")


def by_source(copies: Sequence[Copy]) -> dict[tuple[Place, str], list[Copy]]:
    """Copies together that read the same saved parameter."""
    grouped: dict[tuple[Place, str], list[Copy]] = {}
    for copy in copies:
        grouped.setdefault((copy.place, copy.parameter.name), []).append(copy)
    return grouped
