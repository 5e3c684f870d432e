# SPDX-License-Identifier: Apache-2.0
"""Which texts go into a batch together. Pure: knows lengths, nothing of models."""

from collections.abc import Iterator, Sequence


def by_length(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices into `lengths`, longest first, in batches of at most `budget` tokens counting the padding.

    The longest batch comes first, so that memory that does not suffice shows at once. A text longer than the budget
    is a batch of its own. Equal lengths keep their order, so the batches depend on nothing but the arguments.

    >>> list(by_length([3, 9, 4, 4], budget=8))
    [[1], [2, 3], [0]]
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
