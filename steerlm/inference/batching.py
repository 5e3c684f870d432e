# SPDX-License-Identifier: Apache-2.0
"""Which texts are batched together, by their lengths alone."""

from collections.abc import Iterator, Sequence


def by_length(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Yield batches of indices into `lengths`, longest first, of at most `budget` tokens with padding.

    The longest batch comes first, so that a lack of memory shows at once. A text longer than the budget is its own
    batch. Equal lengths keep their order, so the batches depend only on the arguments.

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
