# SPDX-License-Identifier: Apache-2.0
"""Runs rows through a model's pipeline stages by megatron's schedule, which expects rows of one length."""

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


def run_schedule(
    model: torch.nn.Module,
    rows: Sequence[Row],
    layout: Layout,
    label_width: int | None,
    collect: Callable[..., Any],
    timer: contextlib.AbstractContextManager[Any] | None = None,
    **options: bool,
) -> list[Any]:
    """Return `collect(row, output)` of each row on the last stage, an empty list elsewhere. Collective over a replica.

    Args:
        model: This process's stage.
        rows: This replica's rows.
        layout: This process's ranks.
        label_width: See `row_tensors`.
        collect: Called on the last stage; during training it returns megatron's (loss, count, result).
        timer: Entered for each forward pass.
        options: The schedule's `forward_only` and `collect_non_loss_data`.
    """
    multiple = layout.padding(row.tokens for row in rows)

    def forward_step(remaining: Iterator[Row], stage: Any) -> tuple[torch.Tensor, Callable[..., Any]]:
        with timer or contextlib.nullcontext():
            row: RowTensors = row_tensors(next(remaining), multiple, device.device(), label_width)
            return stage(row), functools.partial(collect, row)

    collected: list[Any] = get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=iter(rows),
        model=model,
        num_microbatches=len(rows),
        seq_length=multiple,  # under pipeline parallelism the length of every row; elsewhere not used
        micro_batch_size=1,
        **options,
    )
    return collected
