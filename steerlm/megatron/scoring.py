# SPDX-License-Identifier: Apache-2.0
"""Scoring with a reward model on megatron's layers, in any layout, without optimizer and gradient buffer.

Each data-parallel replica scores its own texts; the processes of one replica are given the same texts and return the
same scores. Texts of similar length are packed into rows.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import parallel_state

from steerlm.errors import ModelError, SteerLMError
from steerlm.inference.batching import by_length
from steerlm.inference.identity import folder_identity
from steerlm.inference.scorer import ACCELERATOR_TOKENS, CPU_TOKENS, Scores, TokenScorer
from steerlm.megatron import device, hf_io, parallel, schedule
from steerlm.megatron import model as models
from steerlm.megatron.mapping import parameters
from steerlm.models.folder import load_tokenizer, read_info
from steerlm.models.shape import ModelShape
from steerlm.models.tensors import SCORE
from steerlm.training.data import Row, RowTensors, Sample
from steerlm.training.layout import LayoutSettings

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
Value = TypeVar("Value")
log = logging.getLogger(__name__)


class MegatronScorer(TokenScorer):
    """A `Scorer` of this process's replica: a reward model folder over the processes of `layout`.

    Scoring is collective over a replica's processes, construction over all processes. `batch_tokens` bounds a packed
    row.

    Raises:
        ConfigError: The layout does not fit the model.
        ModelError: The folder is not of a reward model.
    """

    place = "job"

    def __init__(
        self,
        folder: Path,
        layout: LayoutSettings,
        *,
        precision: Literal["fp32", "bf16"] = "fp32",
        batch_tokens: int | None = None,
    ) -> None:
        info, shape = read_info(folder), ModelShape.from_folder(folder)
        if info.kind != "reward" or info.attributes is None:
            raise ModelError(f"{folder}: a {info.kind} model; a reward model was expected")
        layout.check_fits(shape)
        self.folder, self.schema = folder, info.attributes
        self.window = min(info.window or shape.max_position_embeddings, shape.max_position_embeddings)
        self.tokenizer = load_tokenizer(folder)
        self.identity = folder_identity(folder, precision)
        self.batch_tokens = batch_tokens or (ACCELERATOR_TOKENS if device.on_accelerator() else CPU_TOKENS)
        self._layout = parallel.initialize(layout, seed=0)
        self._model = _build(folder, shape, layout, DTYPES[precision], len(self.schema.names))
        log.info("reward model %s, %s, replica %d of %d", folder, precision, self.replica + 1, self.replicas)

    @property
    def replica(self) -> int:
        """Index of the replica of the model that this process is part of, from 0."""
        return self._layout.dp_rank

    @property
    def replicas(self) -> int:
        """Number of data-parallel replicas, each of which scores its own texts."""
        return self._layout.dp_size

    @property
    def writes(self) -> bool:
        """Whether this process writes the results of its replica."""
        rank = parallel.model_parallel_rank()
        return rank.tensor == 0 and rank.stage == 0

    def from_first(self, value: Value) -> Value:
        """Return the main rank's `value` on every process, as processes may see a shared folder differently."""
        shared = [value]
        dist.broadcast_object_list(shared, src=0)
        return shared[0]

    def any_of_replica(self, flag: bool) -> bool:
        """Return whether `flag` is set on any process of this replica of the model; collective over these."""
        votes = torch.tensor([int(flag)], device=device.device())
        dist.all_reduce(votes, op=dist.ReduceOp.MAX, group=parallel_state.get_model_parallel_group())
        return bool(votes.item())

    @torch.no_grad()
    def score_tokens(self, rows: Sequence[list[int]]) -> Scores:
        """See `TokenScorer.score_tokens`. Which rows are scored together depends on `rows` only."""
        width = len(self.schema.names)
        batches = list(by_length([len(row) for row in rows], self.batch_tokens))
        flat = torch.empty((len(rows), width), device=device.device())
        if batches:
            outputs = self._forward([_packed([rows[i] for i in batch]) for batch in batches])
            if parallel_state.is_pipeline_last_stage():
                torch.cat(outputs, out=flat)
            if parallel_state.get_pipeline_model_parallel_world_size() > 1:
                group = parallel_state.get_pipeline_model_parallel_group()
                dist.broadcast(flat, parallel_state.get_pipeline_model_parallel_last_rank(), group=group)
        scores = np.empty((len(rows), width), dtype=np.float32)
        scores[[i for batch in batches for i in batch]] = flat.cpu().numpy()
        if not np.isfinite(scores).all():
            raise SteerLMError(f"{self.folder}: the model gives scores that are not finite numbers")
        return scores

    def _forward(self, rows: Sequence[Row]) -> list[torch.Tensor]:
        """Return values [K, A] fp32 of each row on the last pipeline stage, an empty list elsewhere."""
        return schedule.run_schedule(
            self._model, rows, self._layout, None, _output, forward_only=True, collect_non_loss_data=True
        )


def _build(
    folder: Path, shape: ModelShape, layout: LayoutSettings, dtype: torch.dtype, outputs: int
) -> models.ModelStage:
    attention = models.resolve_attention(layout)
    model = models.build(shape, models.configure(shape, layout, dtype), attention, outputs)
    weights = hf_io.open_folder(folder, shape, model)
    if SCORE not in weights or weights.shape(SCORE)[0] != outputs:
        raise ModelError(f"{folder}: its head does not have the {outputs} outputs of its attributes")
    own = parameters(shape, parallel.model_parallel_rank(), outputs, fused_norms=attention == "te")
    hf_io.load(model, own, weights, weights)
    weights.close()
    return model.eval()


def _packed(texts: Sequence[list[int]]) -> Row:
    """Return a row with a read-out position at the last token of each text."""
    samples = (Sample(np.asarray(ids, np.int32), np.zeros(len(ids), np.float32)) for ids in texts)
    return Row(tuple(samples))


def _output(row: RowTensors, output: torch.Tensor, non_loss_data: bool) -> torch.Tensor:
    return output
