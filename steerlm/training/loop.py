"""The training loop: rows in, updates, validation, checkpoints, resume, stop. Drives an `Engine`, knows none.

Nothing it does depends on the layout but where a row is computed: order, loss, and resume are the same on any.
"""

import dataclasses
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

from steerlm.errors import Interrupted, TrainingError
from steerlm.training.batches import batch, check_fits, in_order
from steerlm.training.checkpoints import Checkpoints
from steerlm.training.config import LayoutSettings, TrainSettings
from steerlm.training.dataset import TokenDataset
from steerlm.training.engine import Engine, Objective, Statistics, StepResult
from steerlm.training.garbage import collect_at, scheduled_collection
from steerlm.training.progress import Progress, TrainResult
from steerlm.training.sampler import Sampler, total_steps
from steerlm.training.schedule import learning_rate
from steerlm.training.sink import Sink
from steerlm.training.speed import speed

log = logging.getLogger(__name__)


def train(
    engine: Engine,
    objective: Objective,
    data: TokenDataset,
    validation: TokenDataset | None,
    settings: TrainSettings,
    layout: LayoutSettings,
    folder: Path,
    sink: Sink,
    stop: Callable[[], bool],
) -> TrainResult:
    """Train to the last step, from the newest complete checkpoint under `folder`/checkpoints if there is one.

    On return the engine holds the weights to export: the best by validation loss, or the last. `stop` is asked before
    every update and validation batch on every rank; if it says True on any, all save and raise `Interrupted`. Raises
    `TrainingError` naming the step, before its update, if a loss or gradient is not finite. Collective.
    """
    loop = _Loop(engine, objective, data, validation, settings, layout, folder, sink, stop)
    loop.resume()
    with scheduled_collection():
        loop.run()
    return loop.finish()


class _Loop:
    def __init__(
        self,
        engine: Engine,
        objective: Objective,
        data: TokenDataset,
        validation: TokenDataset | None,
        settings: TrainSettings,
        layout: LayoutSettings,
        folder: Path,
        sink: Sink,
        stop: Callable[[], bool],
    ) -> None:
        self.engine, self.objective, self.settings = engine, objective, settings
        self.data, self.validation = data, validation
        self.sink, self.stop = sink, stop
        self.row_tokens = layout.row_limit(settings.window)
        for dataset in (data, validation):
            if dataset is not None:
                check_fits(dataset, self.row_tokens)
        self.total, self.unused = total_steps(settings, len(data))
        learning_rate(settings.optimizer, 0, self.total)  # a schedule that does not fit is an error now
        self.checkpoints = Checkpoints(folder / "checkpoints", settings.keep, engine.layout.rank == 0)
        run = {
            "seed": settings.seed,
            "global_batch": settings.global_batch,
            **objective.fingerprint(),
            "data": data.key,
        }
        self.progress = Progress(run)
        self.saved = 0
        """The step of the newest checkpoint, begun or complete."""
        self.saved_at = time.monotonic()

    def resume(self) -> None:
        self.checkpoints.clean()
        complete = self.checkpoints.complete()
        if complete:
            path = self.checkpoints.path(complete[-1])
            # Before the tensors are read, which may be a terabyte.
            self.progress = Progress.resumed(self.engine.state_of(path), self.progress.run, str(path))
            self.engine.load(path)
            self.saved = self.progress.step
            log.info("resumed at step %d of %d from %s", self.progress.step, self.total, path)
        self.sampler = Sampler(len(self.data), self.settings.seed, self.progress.consumed)

    def run(self) -> None:
        progress, settings = self.progress, self.settings
        while True:
            improved = False
            due = self._due(settings.validate_every) and progress.validated != progress.step
            if due and self.validation is not None:
                improved = self._validate(self.validation)
            best, last = improved and settings.export == "best", progress.step >= self.total
            if best or self._due(settings.save_every):
                self._save()
            if best or last:  # these are read again, and a run that has ended must be whole
                self._finish_save()
            if last:
                return
            self._stop_or_save_if_due()
            self._step()

    def finish(self) -> TrainResult:
        progress = self.progress
        exported, metrics = progress.step, progress.metrics
        if self.settings.export == "best" and progress.best_step is not None:
            exported, metrics = progress.best_step, progress.best_metrics
        if exported != progress.step:
            log.info("exporting step %d, the best by validation loss", exported)
            self.engine.load_weights(self.checkpoints.path(exported))
        counts = {"train": self.data.counts} | ({"validation": self.validation.counts} if self.validation else {})
        if self.unused:
            log.info("%d units at the end fill no global batch of %d", self.unused, self.settings.global_batch)
        return TrainResult(
            steps=progress.step,
            exported_step=exported,
            best_step=progress.best_step,
            best_loss=progress.best_loss,
            metrics=metrics,
            last_metrics=progress.metrics,
            counts=counts,
            unused_units=self.unused,
            tokens=progress.tokens,
            real_token_share=progress.real_token_share,
            seconds=progress.seconds,
        )

    def _step(self) -> None:
        progress, settings = self.progress, self.settings
        began = time.perf_counter()
        units = self.sampler.take(settings.global_batch)
        work = batch(self.data, units.tolist(), self.row_tokens, self.engine.layout)
        lr = learning_rate(settings.optimizer, progress.step, self.total)
        try:
            result = self.engine.step(work.rows, self.objective, lr, work.count)
        except TrainingError as error:
            last = f"the newest checkpoint is of step {self.saved}" if self.saved else "there is no checkpoint yet"
            raise TrainingError(f"step {progress.step + 1}: {error}; {last}") from error
        seconds = time.perf_counter() - began
        progress.step += 1
        progress.consumed = self.sampler.consumed
        progress.tokens += work.tokens
        progress.computed += work.computed
        progress.seconds += seconds
        metrics = {
            "train/loss": result.loss,
            "train/lr": lr,
            "train/grad_norm": result.grad_norm,
            "train/tokens_per_second": work.tokens / seconds,
            "train/real_token_share": work.tokens / work.computed,
            "train/step_seconds": seconds,
            "train/epoch": progress.consumed / len(self.data),
            "train/consumed_units": progress.consumed,
        }
        engine = self.engine
        fast = speed(work, seconds, engine.layout.world_size, engine.shape, engine.outputs, engine.device_name)
        metrics.update({f"train/{name}": value for name, value in fast.items()})
        self.sink.log(metrics, progress.step)
        collect_at(progress.step)

    def _validate(self, data: TokenDataset) -> bool:
        """Validate the current weights; True if no earlier ones were better."""
        progress, settings = self.progress, self.settings
        began = time.perf_counter()
        total = StepResult(0.0, 0, {})
        for units in in_order(data, settings.global_batch, settings.validation_batches):
            if any(self.engine.agree(self.stop())):
                self._stop()
            work = batch(data, units, self.row_tokens, self.engine.layout)
            total = _sum(total, self.engine.evaluate(work.rows, self.objective))
        if not math.isfinite(total.loss):
            raise TrainingError(f"the validation loss after step {progress.step} is {total.loss}")
        seconds = time.perf_counter() - began
        progress.validated = progress.step
        progress.seconds += seconds
        progress.metrics = {"loss": total.loss, **self.objective.summarise(total.statistics)}
        improved = progress.best_loss is None or total.loss < progress.best_loss
        if improved:
            progress.best_step, progress.best_loss, progress.best_metrics = progress.step, total.loss, progress.metrics
        logged = {f"validation/{name}": value for name, value in progress.metrics.items()}
        self.sink.log({**logged, "validation/seconds": seconds}, progress.step)
        return improved

    def _save(self) -> None:
        """Begin a checkpoint of the current step, which is written while training goes on."""
        if self.saved == self.progress.step:
            return
        self._finish_save()
        self.engine.save(self.checkpoints.path(self.progress.step), self.progress.state())
        self.saved, self.saved_at = self.progress.step, time.monotonic()

    def _finish_save(self) -> None:
        """Wait until the checkpoint that was begun is complete, if there is one."""
        result = self.engine.finish_save()
        if result is None:
            return
        log.info(
            "saved %s: training waited %.2f s, each process wrote up to %.1f MB in %.2f s",
            result.folder,
            result.blocked,
            result.size / 1e6,
            result.writing,
        )
        seconds = {"checkpoint/blocked_seconds": result.blocked, "checkpoint/writing_seconds": result.writing}
        self.sink.log(seconds, self.progress.step)
        self.checkpoints.prune(self.progress.best_step)

    def _stop_or_save_if_due(self) -> None:
        """What all ranks must do in the same step, although they hear of it or finish at other times."""
        minutes = self.settings.save_minutes
        overdue = minutes is not None and time.monotonic() - self.saved_at >= minutes * 60
        stopped, save, writing = self.engine.agree(self.stop(), overdue, self.engine.saving)
        if stopped:
            self._stop()
        if not writing:
            self._finish_save()
        if save:
            self._save()

    def _stop(self) -> None:
        if self.progress.step == 0:
            raise Interrupted("stopped before the first step, nothing to save")
        self._save()
        self._finish_save()
        step, path = self.progress.step, self.checkpoints.path(self.progress.step)
        raise Interrupted(f"stopped after step {step} of {self.total}, saved in {path}; the same command resumes")

    def _due(self, every: int | None) -> bool:
        """At the last step, and every so many."""
        step = self.progress.step
        return step == self.total or bool(every and step and step % every == 0)


def _sum(a: StepResult, b: StepResult) -> StepResult:
    statistics: Statistics = {
        name: a.statistics[name] + value if a.statistics else value for name, value in b.statistics.items()
    }
    return dataclasses.replace(a, loss_sum=a.loss_sum + b.loss_sum, count=a.count + b.count, statistics=statistics)
