"""A row as tensors on a device. Knows padding and the shift by one; nothing of models, losses or processes."""

import numpy as np
import torch

from steerlm.attributes import MASKED
from steerlm.training.engine import RowTensors
from steerlm.training.rows import Row, padded


def row_tensors(row: Row, multiple: int, device: torch.device | str, label_width: int | None = None) -> RowTensors:
    """`row`'s samples one after another, the whole rounded up to a multiple of `multiple` tokens by one tail segment.

    A row is only as long as its content asks; an empty row is a tail of `multiple` tokens. The tail is token 0 at
    positions from 0, weight 0, and belongs to no sample (`sample_of` = number of samples). `label_width`: the number of
    attributes; labels are then [K, label_width] fp32 (also for an empty row, K = 0), all masked for a sample that has
    none. None: labels are None. Raises ValueError for labels of another width.
    """
    real = row.tokens
    total = padded(real, multiple)
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
    return RowTensors(
        tokens=torch.from_numpy(tokens).to(device),
        positions=torch.from_numpy(positions).to(device),
        cu_seqlens=torch.tensor(borders, dtype=torch.int32, device=device),
        targets=torch.from_numpy(targets).to(device),
        weights=torch.from_numpy(weights).to(device),
        readouts=torch.from_numpy(ends - 1).to(device),
        labels=None if labels is None else torch.from_numpy(labels).to(device),
        sample_of=torch.from_numpy(sample_of).to(device),
        count=row.count,
    )
