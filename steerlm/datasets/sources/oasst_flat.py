# SPDX-License-Identifier: Apache-2.0
"""OpenAssistant's flat form, one message a line with its `parent_id`, rebuilt into trees.

Texts stay on disk; memory holds the ids and the links, some 200 bytes a message.
"""

from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import Field

from steerlm.datasets.indexed_lines import IndexedLines
from steerlm.datasets.outputs import Rejects, Summary
from steerlm.datasets.sources.oasst_tree import Message
from steerlm.errors import RecordError
from steerlm.records import parse_line

NONE = -1


class FlatMessage(Message):
    """A message on a line of its own."""

    message_id: str = Field(min_length=1)
    parent_id: str | None = None


class FlatForest:
    """Trees in the order of their roots, replies in file order.

    A message whose parent is missing is dropped with its replies and counted. Bad input is a message that `check`
    rejects with `ValueError`, an id given twice, and messages whose parents form a cycle.
    """

    def __init__(
        self, lines: IndexedLines, check: Callable[[Message], object], reject: Rejects, summary: Summary
    ) -> None:
        self._lines = lines
        self._line, self._parent = array("q"), array("q")  # index: number of the id, in order of first mention
        self._roots: list[int] = []
        order = self._read(check, reject)
        self._first_child, self._next_sibling = self._link(order)
        self._count(order, reject, summary)

    def __len__(self) -> int:
        return len(self._roots)

    def where(self, index: int) -> tuple[Path, int]:
        """Return file and line of a tree's root message."""
        return self._lines.where(self._line[self._roots[index]])

    def text(self, index: int) -> str:
        """Return the line of a tree's root message as it is in the file."""
        return self._lines.line(self._line[self._roots[index]])

    def tree(self, index: int) -> Message:
        """Return the root of tree `index`, with its replies nested."""
        root = self._message(self._roots[index])
        stack = [(self._roots[index], root)]
        while stack:
            number, message = stack.pop()
            children = list(self._children(number))
            message.replies = [self._message(child) for child in children]
            stack.extend(zip(children, message.replies, strict=True))
        return root

    def _read(self, check: Callable[[Message], object], reject: Rejects) -> "array[int]":
        numbers: dict[str, int] = {}
        order = array("q")

        def number_of(name: str) -> int:
            if name not in numbers:
                numbers[name] = len(numbers)
                self._line.append(NONE)
                self._parent.append(NONE)
            return numbers[name]

        for index in range(len(self._lines)):
            path, line = self._lines.where(index)
            text = self._lines.line(index)
            try:
                message = parse_line(text, FlatMessage, path, line)
                if message.message_id in numbers and self._line[numbers[message.message_id]] != NONE:
                    raise RecordError(path, line, f"message_id {message.message_id} occurs twice")
                _check(message, check, path, line)
            except RecordError as error:
                reject(error, text)
                continue
            number = number_of(message.message_id)
            self._line[number] = index
            order.append(number)
            if message.parent_id:
                self._parent[number] = number_of(message.parent_id)
            else:
                self._roots.append(number)
        return order

    def _link(self, order: "array[int]") -> "tuple[array[int], array[int]]":
        """Return first child and next sibling of every number: linked lists of children without a list object each."""
        first, following = array("q", [NONE]) * len(self._line), array("q", [NONE]) * len(self._line)
        for number in reversed(order):
            parent = self._parent[number]
            if parent != NONE:
                following[number], first[parent] = first[parent], number
        return first, following

    def _count(self, order: "array[int]", reject: Rejects, summary: Summary) -> None:
        seen = bytearray(len(self._line))
        for root in self._roots:
            self._mark(root, seen)
        orphans, below = 0, 0
        for number in order:
            parent = self._parent[number]
            if parent != NONE and self._line[parent] == NONE:
                orphans += 1
                below += self._mark(number, seen)
        for number in order:
            if not seen[number]:
                path, line = self._lines.where(self._line[number])
                reject(RecordError(path, line, "its parents form a cycle"), self._lines.line(self._line[number]))
        summary.counts |= {"messages": len(order), "messages whose parent is missing": orphans}
        summary.counts["messages dropped with them"] = below - orphans
        summary.kept, summary.dropped = len(order) - below, below

    def _mark(self, number: int, seen: bytearray) -> int:
        stack, count = [number], 0
        while stack:
            number = stack.pop()
            seen[number] = 1
            count += 1
            stack.extend(self._children(number))
        return count

    def _children(self, number: int) -> Iterator[int]:
        child = self._first_child[number]
        while child != NONE:
            yield child
            child = self._next_sibling[child]

    def _message(self, number: int) -> Message:
        index = self._line[number]
        return parse_line(self._lines.line(index), FlatMessage, *self._lines.where(index))


def _check(message: Message, check: Callable[[Message], object], path: Path, line: int) -> None:
    try:
        check(message)
    except ValueError as error:
        raise RecordError(path, line, str(error)) from None
