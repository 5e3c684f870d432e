# SPDX-License-Identifier: Apache-2.0
"""The training engine on megatron-core: `training.engine.Engine` for any layout.

This file has the training step: schedule, gradients, clipping, update, sums over processes. Model, weights and
checkpoints are in files of their own.
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
from steerlm.megatron import checkpoint, device, hf_io, parallel, schedule
from steerlm.megatron import model as models
from steerlm.megatron.checkpoint_folder import state_of
from steerlm.megatron.initial import RandomWeights
from steerlm.megatron.mapping import Parameter, parameters
from steerlm.models.shape import ModelShape
from steerlm.models.tensors import SCORE
from steerlm.training.config import OptimizerSettings, TrainSettings
from steerlm.training.data import Row, RowTensors
from steerlm.training.engine import Layout, Objective, SaveResult, Statistics, StepResult
from steerlm.training.layout import LayoutSettings
from steerlm.training.tensors import row_tensors

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
POLL_SECONDS = 0.05
Sums = tuple[torch.Tensor, int, Statistics]
"""Loss sum, count and statistics of one row."""


def build_engine(
    *,
    model_folder: Path | None,
    shape: ModelShape | None,
    outputs: int | None,
    settings: TrainSettings,
    layout: LayoutSettings,
) -> "MegatronEngine":
    """Build an engine with the weights of a Hugging Face folder, or with random ones of `shape`; exactly one is given.

    Collective over the layout's processes.

    Args:
        outputs: Width of a reward head, which is read from the folder if it has one, else random; None: no such head.

    Raises:
        ConfigError: The layout does not fit the model or the number of processes.
        ModelError: The folder cannot be read, or its model is not supported.
        InputError: An attention implementation was chosen that is not available.
    """
    if (model_folder is None) == (shape is None):
        raise ValueError("give either model_folder or shape")
    shape = shape or ModelShape.from_folder(model_folder or "")
    layout.check_fits(shape)
    here = parallel.initialize(layout, settings.seed)
    attention = models.resolve_attention(layout)
    model = models.build(shape, models.configure(shape, layout, DTYPES[settings.precision]), attention, outputs)
    own = parameters(shape, parallel.model_parallel_rank(), outputs, fused_norms=attention == "te")
    head_std: float = getattr(settings, "head_init_std", shape.initializer_range)
    drawn = RandomWeights(settings.seed, shape.initializer_range, head_std)
    if model_folder is None:
        hf_io.load(model, own, drawn, drawn)
    else:
        folder = hf_io.open_folder(model_folder, shape, model)
        hf_io.load(model, own, folder, folder if SCORE in folder else drawn)
        folder.close()
    return MegatronEngine(model, own, shape, settings, here, layout.bucket_size)


class MegatronEngine:
    """This process's part of the model, its gradients and its share of the optimizer. Every method is collective."""

    def __init__(
        self,
        model: models.ModelStage,
        own: Sequence[Parameter],
        shape: ModelShape,
        settings: TrainSettings,
        layout: Layout,
        bucket_size: int | None = None,
    ) -> None:
        self.layout, self.shape, self.own, self.settings = layout, shape, own, settings.optimizer
        self.model, self.outputs = model, model.outputs
        self.device, self.device_name = device.device(), device.name()
        # A layer's gradients are reduced while earlier layers compute theirs; its weights are gathered in the same way.
        overlap = layout.dp_size > 1
        ddp = DistributedDataParallelConfig(
            use_distributed_optimizer=True,
            grad_reduce_in_fp32=settings.reduce_gradients == "fp32",  # else in the weights' type
            overlap_grad_reduce=overlap,
            overlap_param_gather=overlap,
            bucket_size=bucket_size,
        )
        self.ddp = DistributedDataParallel(model.config, ddp, model)
        if layout.dp_size == 1:  # otherwise gloo would copy every gradient and every weight for nothing
            for group in self.ddp.bucket_groups:
                group.start_grad_sync = group.start_param_sync = _nothing
        model.config.finalize_model_grads_func = _finish_gradients
        model.config.no_sync_func = self.ddp.no_sync if overlap else None
        self.optimizer = _optimizer(self.ddp, settings.optimizer)
        self.trainable = checkpoint.TrainableModel(model, own, self.optimizer, shape)
        self._checkpoints = checkpoint.CheckpointWriter()
        self._pending: checkpoint.PendingCheckpoint | None = None
        self._last = parallel_state.is_pipeline_last_stage()
        self._forward = device.Stopwatch()

    def step(self, rows: Sequence[Row], objective: Objective, lr: float, count: int | None = None) -> StepResult:
        """Run the schedule over this rank's rows and update once, after checking the reduced count and loss.

        See `Engine.step`.
        """
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
        """Return the sums over the global batch in evaluation mode, without gradients. See `Engine.evaluate`."""
        self.ddp.eval()
        with torch.no_grad():
            return self._sums(self._run(rows, objective, None), rows, objective)

    def agree(self, *flags: bool) -> tuple[bool, ...]:
        """Return for each flag whether any rank has it set, by one all-reduce of maxima."""
        votes = torch.tensor([int(flag) for flag in flags], device=self.device)
        dist.all_reduce(votes, op=dist.ReduceOp.MAX)
        return tuple(map(bool, votes.tolist()))

    def gather_weights(self) -> None:
        """Gather the weights of the last update, of which each replica computed its share.

        Must be called before weights are read. A forward pass does the same bucket by bucket, just before use.
        """
        self.ddp.start_param_sync(force_sync=True)

    def set_timeout(self, minutes: float) -> None:
        """Set the timeout of later collectives in every process group, in minutes."""
        parallel.set_timeout(datetime.timedelta(minutes=minutes))

    def gather(self, values: Sequence[float]) -> list[list[float]]:
        """Return every rank's values, in rank order, by one all-gather in fp64."""
        own = torch.tensor(values, dtype=torch.float64, device=self.device)
        every = own.new_empty(self.layout.world_size * len(own))
        dist.all_gather_into_tensor(every, own)
        rows: list[list[float]] = every.view(self.layout.world_size, -1).tolist()
        return rows

    def forward_seconds(self) -> float:
        """Return the seconds of forward passes in `step` since the last call, by the device's clock."""
        return self._forward.seconds()

    def save(self, folder: Path, state: Mapping[str, Any]) -> None:
        """Finish the previous checkpoint, then copy this rank's share and write it in a thread. See `Engine.save`."""
        self.finish_save()
        # Weights are not gathered: a process saves the shares that it updates itself.
        self._pending = self._checkpoints.start(folder, self.trainable, state)

    @property
    def saving(self) -> bool:
        """Whether this rank's writer thread is still running."""
        return self._pending is not None and self._pending.running

    def finish_save(self) -> SaveResult | None:
        """Wait until no rank is writing, then complete the checkpoint; None if none was started.

        Raises `TrainingError` on every rank if one could not write its part.
        """
        if self._pending is None:
            return None
        while self.agree(self.saving)[0]:  # short collectives, so that a slow disk is not taken for a lost peer
            time.sleep(POLL_SECONDS)
        pending, self._pending = self._pending, None
        return pending.finish()

    def read_state(self, folder: Path) -> dict[str, Any]:
        """Return the loop's state from a checkpoint folder; tensors are not read. Not collective."""
        return state_of(folder)

    def load(self, folder: Path) -> None:
        """Restore this rank's share of weights and optimizer from a checkpoint of any layout; gather the weights."""
        checkpoint.load(folder, self.trainable)
        self.gather_weights()  # each replica has loaded only its share

    def load_weights(self, folder: Path) -> None:
        """Restore the weights alone and copy them to the optimizer's fp32 main parameters."""
        checkpoint.load_weights(folder, self.model, self.own, self.shape)
        self.optimizer.reload_model_params()

    def write_hf(self, folder: Path) -> list[Path]:
        """Gather the weights and write this rank's safetensors shards; the main rank writes the index last."""
        self.gather_weights()
        return hf_io.write(self.model, self.own, self.shape, parallel.model_parallel_rank(), self.outputs, folder)

    def _check(self, output: str) -> None:
        if (output == "values") != (self.outputs is not None):
            has = "a reward head" if self.outputs else "a vocabulary head"
            raise ValueError(f"the model has {has} and cannot compute {output}")

    def _run(self, rows: Sequence[Row], objective: Objective, scale: float | None) -> list[Sums]:
        """Return the sums of this rank's rows on the last stage; compute the gradient of `scale` * sum(loss).

        `scale` None: no gradient.
        """
        self._check(objective.output)

        def loss(row: RowTensors, out: torch.Tensor) -> tuple[torch.Tensor, int, Sums]:
            total, count, statistics = objective.loss(out, row)
            sums = total.detach(), count, statistics
            return total if scale is None else total * scale, count, sums

        return self._run_schedule(rows, loss, forward_only=scale is None)

    def _run_schedule(self, rows: Sequence[Row], collect: Callable[..., Any], *, forward_only: bool) -> list[Any]:
        """Run `schedule.run_schedule`, timing the forward passes of a step."""
        timer = None if forward_only else self._forward
        return schedule.run_schedule(
            self.ddp, rows, self.layout, self.outputs, collect, timer, forward_only=forward_only
        )

    def _sums(self, per_row: Sequence[Sums], rows: Sequence[Row], objective: Objective) -> StepResult:
        """Reduce over all processes at once; one process of each replica's last stage contributes."""
        if not self._last:
            per_row = [self._template(rows[0], objective)]
        _, _, first = per_row[0]
        parts = [
            torch.stack([total.double() for total, _, _ in per_row]).sum(),
            torch.full((), sum(count for _, count, _ in per_row), dtype=torch.float64, device=self.device),
            *(torch.stack([s[name].double() for _, _, s in per_row]).sum(0) for name in first),
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
        """Return sums with the names and shapes of the statistics, for a stage that computes none."""
        tensors = row_tensors(row, self.layout.row_multiple, self.device, self.outputs)
        size = (len(row.samples), self.outputs) if self.outputs else (len(tensors.tokens),)
        return objective.loss(torch.zeros(size, device=self.device), tensors)

    def _update(self, lr: float, loss: float) -> float:
        """Clip and update; return the gradient norm, equal on every rank.

        Raises `NonFiniteError` before the update if the norm is not finite.
        """
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


def _finish_gradients(model: list[Any], num_tokens: torch.Tensor | None, **options: Any) -> None:
    """Finish a backward pass as megatron does, but without dividing the gradients by the number of tokens.

    Megatron reduces that number over all processes at this point; here the loss has already been divided.
    """
    finalize_model_grads(model, None, **options)


def _nothing(*args: Any, **kwargs: Any) -> None: ...


def _optimizer(ddp: DistributedDataParallel, settings: OptimizerSettings) -> Any:
    """Build the distributed optimizer, also for one process: checkpoints of the plain one are not interchangeable."""
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
