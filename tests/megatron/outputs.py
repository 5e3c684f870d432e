# SPDX-License-Identifier: Apache-2.0
"""What an engine's model gives for rows, to compare with the oracle's."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from steerlm.megatron import schedule
from steerlm.megatron.engine import MegatronEngine
from steerlm.training.data import Row, RowTensors


@torch.no_grad()
def model_outputs(
    engine: MegatronEngine, rows: Sequence[Row], output: Literal["logprobs", "values"]
) -> list[torch.Tensor]:
    """Per row of this rank, fp32 on the CPU: per-sample sums of weighted log-probs [K], or values [K, A].

    Collective; the same on every rank of the model-parallel group.
    """
    engine.ddp.eval()

    def collect(row: RowTensors, out: torch.Tensor, non_loss_data: bool) -> torch.Tensor:
        if output == "values":
            return out
        sums = out.new_zeros(len(row.readouts) + 1)
        return sums.index_add_(0, row.sample_of, torch.where(row.weights != 0, out * row.weights, 0))[:-1]

    collected = schedule.run_schedule(
        engine.ddp,
        rows,
        engine.layout,
        engine.outputs,
        collect,
        forward_only=True,
        collect_non_loss_data=True,
    )
    shapes = [(len(row.samples), *([engine.outputs] if engine.outputs else [])) for row in rows]
    sizes = [math.prod(shape) for shape in shapes]
    flat = torch.empty(sum(sizes), device=engine.device)
    if parallel_state.is_pipeline_last_stage():
        torch.cat([part.flatten() for part in collected], out=flat)
    if parallel_state.get_pipeline_model_parallel_world_size() > 1:
        group = parallel_state.get_pipeline_model_parallel_group()
        dist.broadcast(flat, parallel_state.get_pipeline_model_parallel_last_rank(), group=group)
    return [part.view(shape) for part, shape in zip(torch.split(flat.cpu(), sizes), shapes, strict=True)]
