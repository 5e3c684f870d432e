# SPDX-License-Identifier: Apache-2.0
"""Where one layout's rows are found in another's: every number of every parameter, from everywhere it is cut."""

import itertools

import pytest
import torch

from steerlm.errors import ModelError
from steerlm.megatron.mapping import ModelParallelRank, Parameter, Slice, fuse, parameters
from steerlm.megatron.resharding import SavedLayout, columns, size
from steerlm.models.shape import ModelShape
from tests.megatron.material import GQA, OUTPUTS, SHAPES

LAYOUTS = [(1, 1), (2, 1), (1, 2), (2, 4)]


def value(part: Slice) -> torch.Tensor:
    """A slice of a tensor whose every number tells its name, row and column."""
    whole = torch.arange(torch.Size(part.shape).numel()).view(part.shape) + hash(part.name) % 1000 * 10_000
    return whole if part.dim is None else whole.narrow(part.dim, part.start, part.stop - part.start)


def local(parameter: Parameter) -> torch.Tensor:
    return fuse([value(part) for part in parameter.parts], parameter.groups).reshape(-1, columns(parameter.parts[0]))


@pytest.mark.parametrize(
    ("shape", "outputs"), [(GQA, None), (GQA, OUTPUTS), (SHAPES["tied"], None), (SHAPES["qwen2"], None)]
)
def test_every_row_is_found_in_every_layout(shape: ModelShape, outputs: int | None) -> None:
    for (tensors, stages), (to_tensors, to_stages), fused in itertools.product(LAYOUTS, LAYOUTS, (False, True)):
        saved = SavedLayout(shape, tensors, stages, outputs, fused)
        for stage, tensor in itertools.product(range(to_stages), range(to_tensors)):
            for wanted in parameters(shape, ModelParallelRank(tensor, to_tensors, stage, to_stages), outputs):
                whole = local(wanted)
                assert whole.numel() == size(wanted)
                first, last = len(whole) // 3, len(whole) - len(whole) // 4  # as a replica's share begins anywhere
                filled = torch.full_like(whole, -1)
                for copy in saved.copies(wanted, first, last):
                    rows = local(copy.parameter)[copy.source_row :][: copy.rows, copy.source_column :]
                    filled[copy.row :][: copy.rows, copy.column :][:, : copy.columns] = rows[:, : copy.columns]
                assert torch.equal(filled[first:last], whole[first:last]), wanted.name
                assert (filled[:first] == -1).all() and (filled[last:] == -1).all()


def test_what_was_not_saved_is_named() -> None:
    (head,) = (p for p in parameters(GQA, ModelParallelRank(), None) if p.name == "output_layer.weight")
    with pytest.raises(ModelError, match=r"lm_head\.weight: 3072 of its elements are not in the checkpoint"):
        SavedLayout(GQA, 2, 1, OUTPUTS, False).copies(head, 0, GQA.vocab_size)
