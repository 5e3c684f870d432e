# SPDX-License-Identifier: Apache-2.0
"""Converts a row to tensors on a device: concatenation, padding and the shift by one.

Everything that depends only on the row's content is computed here, on the host, and reaches the device in one copy, so
that the host never waits for the device for something it could have computed itself.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from steerlm.attributes import MASKED
from steerlm.training.data import Row, RowTensors
from steerlm.training.packing import padded_length


def row_tensors(row: Row, multiple: int, device: torch.device | str, label_width: int | None = None) -> RowTensors:
    """Concatenate the samples of `row` and pad them to a multiple of `multiple` tokens by one tail segment.

    The tail is token 0 at positions from 0 with weight 0, and belongs to no sample (`sample_of` is the number of
    samples). An empty row is a tail of `multiple` tokens.

    Args:
        label_width: Number of attributes. Labels are then [K, label_width] fp32, also for an empty row (K = 0), and all
            masked for a sample without labels. None: the row has no labels.

    Raises:
        ValueError: A sample has labels of another width.
    """
    real = row.tokens
    total = padded_length(real, multiple)
    tokens = np.zeros(total, np.int64)
    targets = np.zeros(total, np.int64)
    positions = np.zeros(total, np.int64)
    weights = np.zeros(total, np.float32)
    sample_of = np.full(total, len(row.samples), np.int64)
    ends = np.cumsum([len(s.ids) for s in row.samples], dtype=np.int64)
    for k, (sample, end) in enumerate(zip(row.samples, ends, strict=True)):
        start = end - len(sample.ids)
        tokens[start:end] = sample.ids
        targets[start : end - 1] = sample.ids[1:]
        weights[start : end - 1] = sample.weights[1:]
        positions[start:end] = np.arange(end - start)
        sample_of[start:end] = k
    positions[real:] = np.arange(total - real)
    borders = [0, *ends.tolist(), *([total] if total > real else [])]

    labels = None
    if label_width is not None:
        labels = np.full((len(row.samples), label_width), MASKED, np.float32)
        for k, sample in enumerate(row.samples):
            if sample.labels is not None:
                if len(sample.labels) != label_width:
                    raise ValueError(f"a sample has {len(sample.labels)} labels, the model {label_width} outputs")
                labels[k] = sample.labels
    learned = np.flatnonzero(weights)
    arrays: dict[str, npt.NDArray[Any]] = {
        "tokens": tokens,
        "positions": positions,
        "cu_seqlens": np.array(borders, np.int32),
        "targets": targets,
        "weights": weights,
        "learned": learned if len(learned) else np.zeros(1, np.int64),
        "readouts": ends - 1,
        "sample_of": sample_of,
        "unit_ends": np.array(row.unit_ends, np.int64),
        **({} if labels is None else {"labels": labels}),
    }
    return RowTensors(**on_device(arrays, device), lengths=tuple(np.diff(borders).tolist()), count=row.count)


def on_device(arrays: Mapping[str, npt.NDArray[Any]], device: torch.device | str) -> dict[str, torch.Tensor]:
    """Copy `arrays` to `device` at once, as views of one buffer.

    A GPU reads the buffer from pinned memory while the host continues.
    """
    starts, total = {}, 0
    for name, array in arrays.items():
        starts[name] = total
        total += -(-array.nbytes // 8) * 8  # aligned for a view of any dtype
    host = torch.empty(total, dtype=torch.uint8, pin_memory=torch.device(device).type != "cpu")
    for name, array in arrays.items():
        host.numpy()[starts[name] : starts[name] + array.nbytes] = array.reshape(-1).view(np.uint8)
    buffer = host.to(device, non_blocking=True)
    return {
        name: buffer[starts[name] : starts[name] + array.nbytes].view(torch.from_numpy(array).dtype).view(array.shape)
        for name, array in arrays.items()
    }
