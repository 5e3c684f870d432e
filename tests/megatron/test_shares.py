# SPDX-License-Identifier: Apache-2.0
"""The optimizer's state after a resume is what was saved, number by number, with many padded buckets and in any layout.

Real models have several gradient buckets, most of them padded at their ends; test models are so small that they have
one, unless `bucket_size` cuts more. What a resume restores is compared by parameter: a loss shows a wrong state late.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from steerlm.megatron import parallel
from steerlm.megatron.engine import MegatronEngine
from steerlm.megatron.mapping import ModelParallelRank, Parameter
from steerlm.megatron.resharding import blocks, columns, size
from steerlm.models.families import FAMILIES
from steerlm.models.shape import ModelShape
from steerlm.training.layout import LayoutSettings
from tests.megatron.forked import ranks
from tests.megatron.material import FAMILY_SHAPES, GQA, OUTPUTS, SHAPES, curve, engine

pytestmark = pytest.mark.long

BUCKET = 3000
DP1: dict[str, Any] = {}
DP2, DP3, DP6 = ({"devices": n} for n in (2, 3, 6))
TP2_DP3, PP2_DP3 = {"devices": 6, "tensor": 2, "sequence_parallel": True}, {"devices": 6, "pipeline": 2}
TP4 = {"devices": 4, "tensor": 4}
Kept = list[tuple[ModelParallelRank, Parameter, int, int, dict[str, torch.Tensor]]]
State = dict[tuple[str, str], torch.Tensor]


def kept(of: MegatronEngine) -> Kept:
    """A copy of everything this process has: its rank, parameter, range, tensors by the state's name."""
    rank = parallel.model_parallel_rank()
    return [
        (rank, share.parameter, share.start, share.stop, {n: t.clone() for n, t in share.tensors.items()})
        for share in of.trainable.shares()
    ]


def whole(of: list[Kept]) -> State:
    """All processes' shares put together: (state, Hugging Face tensor) -> values. Fails unless every number is there,
    and equal where several processes have it.
    """
    local: dict[tuple[ModelParallelRank, str, str], tuple[Parameter, torch.Tensor]] = {}
    for place, parameter, start, stop, tensors in (share for rank in of for share in rank):
        for state, values in tensors.items():
            key = (place, parameter.name, state)
            local.setdefault(key, (parameter, torch.full([size(parameter)], torch.nan)))[1][start:stop] = values.float()
    found: State = {}
    for (_, _, state), (parameter, flat) in local.items():
        assert not flat.isnan().any(), (parameter.name, state)
        rows = flat.view(-1, columns(parameter.parts[0]))
        for block in blocks(parameter):
            (shape,) = {part.shape for part in parameter.parts if part.name == block.name}
            tensor = found.setdefault(
                (state, block.name), torch.full([shape[0], *shape[1:]], torch.nan).view(shape[0], -1)
            )
            target = tensor[block.source_row :, block.column :][: block.rows, : block.columns]
            here = rows[block.row : block.row + block.rows]
            assert (target.isnan() | (target == here)).all(), (state, block.name)
            target.copy_(here)
    assert all(not tensor.isnan().any() for tensor in found.values())
    return found


def _saved(folder: Path, shape: ModelShape, outputs: int | None, layout: dict[str, Any], precision: str) -> Any:
    of = engine(shape, outputs, layout={**layout, "bucket_size": BUCKET}, precision=precision)
    curve(of, outputs, range(2))
    before = kept(of)
    padded = [
        bucket.grad_data.numel() > bucket.numel_unpadded for buffer in of.ddp.buffers for bucket in buffer.buckets
    ]
    of.save(folder, {})
    losses = curve(of, outputs, range(2, 4))
    of.finish_save()
    return before, sum(padded), losses


def _resumed(
    folders: list[Path], shape: ModelShape, outputs: int | None, layout: dict[str, Any], precision: str
) -> Any:
    of = engine(shape, outputs, layout={**layout, "bucket_size": BUCKET}, precision=precision, seed=99)
    found = []
    for folder in folders:
        of.load(folder)
        found.append((kept(of), curve(of, outputs, range(2, 4))))
    return found


CASES: dict[str, tuple[ModelShape, int | None, str, list[dict[str, Any]], list[dict[str, Any]]]] = {
    "reward": (GQA, OUTPUTS, "bf16", [DP1, DP2, DP3, DP6, TP2_DP3, PP2_DP3], [DP1, DP2, DP3, DP6, TP2_DP3, PP2_DP3]),
    "tied": (SHAPES["tied"], None, "fp32", [DP2, PP2_DP3], [DP1, TP2_DP3, PP2_DP3]),
    "heads": (SHAPES["mha"], None, "bf16", [TP2_DP3], [TP4]),
    **{name: (FAMILY_SHAPES[name], None, "bf16", [PP2_DP3], [TP2_DP3]) for name in FAMILIES},
}


@pytest.mark.parametrize("name", CASES)
def test_every_number_of_the_state_is_restored_in_every_layout(tmp_path: Path, name: str) -> None:
    shape, outputs, precision, saving, resuming = CASES[name]
    states, curves = [], []
    folders = [tmp_path / str(i) for i in range(len(saving))]
    for folder, layout in zip(folders, saving, strict=True):
        saved = ranks(LayoutSettings(**layout).processes, _saved, folder, shape, outputs, layout, precision)
        states.append(whole([before for before, _, _ in saved]))
        curves.append(saved[0][2])
        if layout in (DP3, DP6, TP2_DP3, PP2_DP3):
            assert max(padded for _, padded, _ in saved) > 1, layout
    for layout in resuming:
        by_rank = ranks(LayoutSettings(**layout).processes, _resumed, folders, shape, outputs, layout, precision)
        for i, saved_layout in enumerate(saving):
            state = whole([found[i][0] for found in by_rank])
            assert state.keys() == states[i].keys()
            for key, values in state.items():
                assert torch.equal(values, states[i][key]), (saved_layout, layout, key)
            tolerance = 1e-12 if layout == saved_layout else 1e-6 if precision == "fp32" else 2e-2
            losses = [loss for loss, _ in by_rank[0][i][1]]
            assert losses == pytest.approx([loss for loss, _ in curves[i]], abs=tolerance), (saved_layout, layout)
