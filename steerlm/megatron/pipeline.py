# SPDX-License-Identifier: Apache-2.0
"""Rows through a model's pipeline stages: megatron's schedule, and the one length that its stages expect of a row."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from megatron.core.pipeline_parallel import get_forward_backward_func

from steerlm.megatron import device
from steerlm.training.data import Row, RowTensors
from steerlm.training.engine import Layout
from steerlm.training.tensors import row_tensors


def through(
    model: torch.nn.Module,
    rows: Sequence[Row],
    layout: Layout,
    label_width: int | None,
    collect: Callable[..., Any],
    watch: contextlib.AbstractContextManager[Any] | None = None,
    **how: bool,
) -> list[Any]:
    """`collect(row, output)` of each row on the last stage; elsewhere the list is empty. Collective over a replica.

    `label_width`: see `row_tensors`. `watch` is entered for each forward pass. `how`: the schedule's `forward_only`,
    `collect_non_loss_data`.
    """
    multiple = layout.padding(row.tokens for row in rows)

    def forward_step(left: Iterator[Row], stage: Any) -> tuple[torch.Tensor, Callable[..., Any]]:
        with watch or contextlib.nullcontext():
            row: RowTensors = row_tensors(next(left), multiple, device.device(), label_width)
            return stage(row), functools.partial(collect, row)

    collected: list[Any] = get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=iter(rows),
        model=model,
        num_microbatches=len(rows),
        seq_length=multiple,  # under pipeline parallelism the length of every row; elsewhere not used
        micro_batch_size=1,
        **how,
    )
    return collected
