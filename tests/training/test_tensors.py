# SPDX-License-Identifier: Apache-2.0
"""Rows as tensors: shift, restart of positions, tail, labels."""

import dataclasses

import numpy as np
import pytest
import torch

from steerlm.attributes import MASKED
from steerlm.training.data import Row, Sample
from steerlm.training.tensors import row_tensors


def sample(ids: list[int], weights: list[float] | None = None, labels: list[float] | None = None) -> Sample:
    return Sample(
        np.array(ids, np.int32),
        np.array(weights or [0.0] * len(ids), np.float32),
        None if labels is None else np.array(labels, np.float32),
    )


def test_two_samples_and_a_tail() -> None:
    out = row_tensors(Row((sample([5, 6, 7], [0, 0.5, 1]), sample([8, 9], [0, 2]))), 4, "cpu")
    assert out.tokens.tolist() == [5, 6, 7, 8, 9, 0, 0, 0]
    assert out.targets.tolist() == [6, 7, 0, 9, 0, 0, 0, 0]
    assert out.weights.tolist() == [0.5, 1, 0, 2, 0, 0, 0, 0]
    assert out.positions.tolist() == [0, 1, 2, 0, 1, 0, 1, 2]
    assert out.cu_seqlens.tolist() == [0, 3, 5, 8] and out.cu_seqlens.dtype == torch.int32
    assert out.readouts.tolist() == [2, 4]
    assert out.sample_of.tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    assert out.learned.tolist() == [0, 1, 3] and out.lengths == (3, 2, 3)
    assert out.labels is None and out.count == 2
    assert out.unit_ends.tolist() == [1, 2]


def test_a_row_says_where_its_units_end() -> None:
    row = Row(tuple(sample([n, n]) for n in range(1, 6)), unit_ends=(2, 4, 5))
    assert row_tensors(row, 1, "cpu").unit_ends.tolist() == [2, 4, 5]


def test_a_row_reaches_the_device_in_one_copy() -> None:
    out = row_tensors(Row((sample([5, 6, 7], [0, 0.5, 1], [1, 2, 3]),)), 4, "cpu", 3)
    tensors = [getattr(out, field.name) for field in dataclasses.fields(out)]
    assert len({t.untyped_storage().data_ptr() for t in tensors if isinstance(t, torch.Tensor)}) == 1


def test_no_tail_when_the_content_fills_the_row() -> None:
    out = row_tensors(Row((sample([1, 2]), sample([3, 4]))), 2, "cpu")
    assert out.cu_seqlens.tolist() == [0, 2, 4] and len(out.tokens) == 4


@pytest.mark.parametrize("multiple", [1, 8])
def test_an_empty_row_is_one_tail_segment(multiple: int) -> None:
    out = row_tensors(Row(), multiple, "cpu", 3)
    assert out.cu_seqlens.tolist() == [0, multiple] and len(out.readouts) == 0 and out.count == 0
    assert out.learned.tolist() == [0] and out.lengths == (multiple,)
    assert out.labels is not None and out.labels.shape == (0, 3)


def test_missing_labels_are_masked_and_another_width_is_refused() -> None:
    row = Row((sample([1], labels=[1, MASKED]), sample([2])))
    out = row_tensors(row, 1, "cpu", 2)
    assert out.labels is not None and out.labels.tolist() == [[1, MASKED], [MASKED, MASKED]]
    with pytest.raises(ValueError, match="2 labels, the model 3"):
        row_tensors(row, 1, "cpu", 3)
