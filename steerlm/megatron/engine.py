# SPDX-License-Identifier: Apache-2.0
"""The training engine on megatron-core: `training.engine.Engine` for any layout.

Knows one step: schedule, gradients, clipping, update, sums. Model, weights and checkpoints are in files of their own.
"""

import datetime
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer

from steerlm.errors import NonFiniteError
from steerlm.megatron import checkpoint, device, hf_io, parallel, pipeline
from steerlm.megatron import model as models
from steerlm.megatron.checkpoint_folder import state_of
from steerlm.megatron.initial import Random
from steerlm.megatron.mapping import SCORE, Parameter, parameters
from steerlm.models.shape import ModelShape
from steerlm.training.config import OptimizerSettings, TrainSettings
from steerlm.training.data import Row, RowTensors
from steerlm.training.engine import Layout, Objective, SaveResult, Statistics, StepResult
from steerlm.training.layout import LayoutSettings
from steerlm.training.tensors import row_tensors

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
POLL_SECONDS = 0.05
Sums = tuple[torch.Tensor, int, Statistics]
"""Of one row: loss sum, count, statistics."""


def build_engine(
    *,
    model_folder: Path | None,
    shape: ModelShape | None,
    outputs: int | None,
    settings: TrainSettings,
    layout: LayoutSettings,
) -> "MegatronEngine":
    """An engine whose weights come from a Hugging Face folder, or are drawn for `shape`; exactly one is given.

    `outputs`: a reward head of that many values; it is read from the folder if it has one, else drawn. Collective over
    the layout's processes. Raises `ConfigError`, `ModelError` or `InputError` for what does not fit.
    """
    if (model_folder is None) == (shape is None):
        raise ValueError("give either model_folder or shape")
    shape = shape or ModelShape.from_folder(model_folder or "")
    layout.check_fits(shape)
    here = parallel.initialize(layout, settings.seed)
    attention = models.resolve_attention(layout)
    model = models.build(shape, models.configure(shape, layout, DTYPES[settings.precision]), attention, outputs)
    own = parameters(shape, parallel.place(), outputs, fused_norms=attention == "te")
    head_std: float = getattr(settings, "head_init_std", shape.initializer_range)
    drawn = Random(settings.seed, shape.initializer_range, head_std)
    if model_folder is None:
        hf_io.load(model, own, drawn, drawn)
    else:
        folder = hf_io.Folder(model_folder)
        hf_io.load(model, own, folder, folder if SCORE in folder else drawn)
        folder.close()
    return MegatronEngine(model, own, shape, settings, here, layout.bucket_size)


class MegatronEngine:
    """One process's part of the model, its gradients and its share of the optimizer. Every method is collective."""

    def __init__(
        self,
        model: models.Llama,
        own: Sequence[Parameter],
        shape: ModelShape,
        settings: TrainSettings,
        layout: Layout,
        bucket_size: int | None = None,
    ) -> None:
        self.layout, self.shape, self.own, self.settings = layout, shape, own, settings.optimizer
        self.model, self.outputs = model, model.outputs
        self.device, self.device_name = device.device(), device.name()
        # A layer's gradients travel while those of the layers before it are computed, its weights while those compute.
        overlap = layout.dp_size > 1
        ddp = DistributedDataParallelConfig(
            use_distributed_optimizer=True,
            grad_reduce_in_fp32=settings.reduce_gradients == "fp32",  # else in the weights' type
            overlap_grad_reduce=overlap,
            overlap_param_gather=overlap,
            bucket_size=bucket_size,
        )
        self.ddp = DistributedDataParallel(model.config, ddp, model)
        if layout.dp_size == 1:  # nothing to exchange, which gloo does by copying every gradient and every weight
            for group in self.ddp.bucket_groups:
                group.start_grad_sync = group.start_param_sync = _nothing
        model.config.finalize_model_grads_func = _finish_gradients
        model.config.no_sync_func = self.ddp.no_sync if overlap else None
        self.optimizer = _optimizer(self.ddp, settings.optimizer)
        self.trained = checkpoint.Trained(model, own, self.optimizer, shape)
        self._saver = checkpoint.Saver()
        self._saving: checkpoint.Saving | None = None
        self._last = parallel_state.is_pipeline_last_stage()
        self._forward = device.Stopwatch()

    def step(self, rows: Sequence[Row], objective: Objective, lr: float, count: int | None = None) -> StepResult:
        count = sum(row.count for row in rows) if count is None else count
        self.ddp.train()
        self.ddp.zero_grad_buffer()
        self.optimizer.zero_grad()  # its fp32 copies of the last gradient
        result = self._sums(self._run(rows, objective, 1 / max(1, count)), rows, objective)
        if result.count != count:
            raise ValueError(f"the rows of all replicas have a count of {result.count}, the step was given {count}")
        if not math.isfinite(result.loss_sum):
            raise NonFiniteError(result.loss)
        norm = self._update(lr, result.loss)
        return StepResult(result.loss_sum, result.count, result.statistics, norm)

    def evaluate(self, rows: Sequence[Row], objective: Objective) -> StepResult:
        self.ddp.eval()
        with torch.no_grad():
            return self._sums(self._run(rows, objective, None), rows, objective)

    def agree(self, *flags: bool) -> tuple[bool, ...]:
        votes = torch.tensor([int(flag) for flag in flags], device=self.device)
        dist.all_reduce(votes, op=dist.ReduceOp.MAX)
        return tuple(map(bool, votes.tolist()))

    def gather_weights(self) -> None:
        """Bring every replica's weights up to date with the last update, of which each computed its share; to be called
        by what reads weights. A forward pass does the same bucket by bucket, each just before it is used."""
        self.ddp.start_param_sync(force_sync=True)

    def set_timeout(self, minutes: float) -> None:
        parallel.set_timeout(datetime.timedelta(minutes=minutes))

    def gather(self, values: Sequence[float]) -> list[list[float]]:
        own = torch.tensor(values, dtype=torch.float64, device=self.device)
        every = own.new_empty(self.layout.world_size * len(own))
        dist.all_gather_into_tensor(every, own)
        rows: list[list[float]] = every.view(self.layout.world_size, -1).tolist()
        return rows

    def forward_seconds(self) -> float:
        return self._forward.seconds()

    def save(self, folder: Path, state: Mapping[str, Any]) -> None:
        self.finish_save()
        # No gathering: a process saves the shares that it updates itself.
        self._saving = self._saver.begin(folder, self.trained, state)

    @property
    def saving(self) -> bool:
        return self._saving is not None and self._saving.running

    def finish_save(self) -> SaveResult | None:
        if self._saving is None:
            return None
        while self.agree(self.saving)[0]:  # short collectives: a slow disk is no lost peer
            time.sleep(POLL_SECONDS)
        saving, self._saving = self._saving, None
        return saving.finish()

    def read_state(self, folder: Path) -> dict[str, Any]:
        return state_of(folder)

    def load(self, folder: Path) -> None:
        checkpoint.load(folder, self.trained)
        self.gather_weights()  # each replica has read its share

    def load_weights(self, folder: Path) -> None:
        checkpoint.load_weights(folder, self.model, self.own, self.shape)
        self.optimizer.reload_model_params()

    def write_hf(self, folder: Path) -> None:
        self.gather_weights()
        hf_io.write(self.model, self.own, self.shape, parallel.place(), self.outputs, folder)

    def _check(self, output: str) -> None:
        if (output == "values") != (self.outputs is not None):
            has = "a reward head" if self.outputs else "a vocabulary head"
            raise ValueError(f"the model has {has}, it does not give {output}")

    def _run(self, rows: Sequence[Row], objective: Objective, scale: float | None) -> list[Sums]:
        """The sums of this rank's rows, on the last stage; and the gradient of `scale` * sum(loss) over the global
        batch, unless `scale` is None."""
        self._check(objective.output)

        def loss(row: RowTensors, out: torch.Tensor) -> tuple[torch.Tensor, int, Sums]:
            total, count, statistics = objective.loss(out, row)
            sums = total.detach(), count, statistics
            return total if scale is None else total * scale, count, sums

        return self._through(rows, loss, forward_only=scale is None)

    def _through(self, rows: Sequence[Row], collect: Callable[..., Any], **how: bool) -> list[Any]:
        """`pipeline.through`; forward passes of a step are timed."""
        watch = None if how["forward_only"] else self._forward
        return pipeline.through(self.ddp, rows, self.layout, self.outputs, collect, watch, **how)

    def _sums(self, done: Sequence[Sums], rows: Sequence[Row], objective: Objective) -> StepResult:
        """One reduction over all processes; of each model replica only one process of the last stage contributes."""
        if not self._last:
            done = [self._template(rows[0], objective)]
        _, _, first = done[0]
        parts = [
            torch.stack([total.double() for total, _, _ in done]).sum(),
            torch.full((), sum(count for _, count, _ in done), dtype=torch.float64, device=self.device),
            *(torch.stack([s[name].double() for _, _, s in done]).sum(0) for name in first),
        ]
        flat = torch.cat([part.reshape(-1) for part in parts])
        if not self._last or parallel_state.get_tensor_model_parallel_rank() != 0:
            flat = torch.zeros_like(flat)
        if self.layout.world_size > 1:
            dist.all_reduce(flat)
        loss_sum, count, *rest = flat.cpu().split([part.numel() for part in parts])
        statistics = {name: part.view(first[name].shape) for name, part in zip(first, rest, strict=True)}
        return StepResult(loss_sum.item(), round(count.item()), statistics)

    def _template(self, row: Row, objective: Objective) -> Sums:
        """Names and shapes of the statistics, for a stage that computes none."""
        tensors = row_tensors(row, self.layout.row_multiple, self.device, self.outputs)
        size = (len(row.samples), self.outputs) if self.outputs else (len(tensors.tokens),)
        return objective.loss(torch.zeros(size, device=self.device), tensors)

    def _update(self, lr: float, loss: float) -> float:
        """Clip and update. Raises `NonFiniteError` before it if the norm, equal on every rank, is not finite."""
        optimizer, settings = self.optimizer, self.settings
        optimizer.prepare_grads()
        norm = float(optimizer.clip_grad_norm(settings.clip) if settings.clip else optimizer.get_grad_norm())
        if not math.isfinite(norm):
            raise NonFiniteError(loss, norm)
        for group in optimizer.param_groups:
            group["lr"] = lr * group["lr_mult"]
            group["weight_decay"] = settings.weight_decay * group["wd_mult"]  # 0 for 1-D parameters
        optimizer.step_with_ready_grads()
        return norm


def _finish_gradients(model: list[Any], num_tokens: torch.Tensor | None, **how: Any) -> None:
    """Megatron's last part of a backward pass without its division of every gradient by the number of tokens, which it
    learns only then, from all processes: the loss has been divided already."""
    finalize_model_grads(model, None, **how)


def _nothing(*args: Any, **kwargs: Any) -> None: ...


def _optimizer(ddp: DistributedDataParallel, settings: OptimizerSettings) -> Any:
    """Always the distributed optimizer, at one process too: its checkpoints and the plain one's do not interchange."""
    config = OptimizerConfig(
        optimizer="adam",
        lr=settings.lr,
        min_lr=settings.min_lr,
        weight_decay=settings.weight_decay,
        adam_beta1=settings.betas[0],
        adam_beta2=settings.betas[1],
        adam_eps=settings.eps,
        clip_grad=settings.clip,
        bf16=ddp.config.bf16,
        params_dtype=ddp.config.params_dtype,
        use_distributed_optimizer=True,
        overlap_param_gather=ddp.ddp_config.overlap_param_gather,
    )
    (optimizer,) = get_megatron_optimizer(config, [ddp], use_gloo_process_groups=False).chained_optimizers
    if isinstance(optimizer.optimizer, torch.optim.AdamW):
        for group in optimizer.param_groups:
            group["fused"] = True
    return optimizer
