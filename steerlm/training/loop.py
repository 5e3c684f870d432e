# SPDX-License-Identifier: Apache-2.0
"""The training loop: rows in, updates, validation, checkpoints, resume, stop. Drives an `Engine`, knows none.

Nothing it does depends on the layout but where a row is computed: order, loss, and resume are the same on any.
"""

import contextlib
import dataclasses
import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from steerlm.errors import Interrupted, NonFiniteError, TrainingError
from steerlm.training.batches import batch, check_fits, in_order
from steerlm.training.checkpoints import Checkpoints
from steerlm.training.config import TrainSettings
from steerlm.training.dataset import TokenDataset
from steerlm.training.engine import Engine, Objective, Statistics, StepResult
from steerlm.training.garbage import collect_at, scheduled_collection
from steerlm.training.heartbeat import Heartbeat
from steerlm.training.layout import FaultSettings, LayoutSettings
from steerlm.training.sampler import Sampler, total_steps
from steerlm.training.schedule import learning_rate
from steerlm.training.sink import Sink
from steerlm.training.speed import speed
from steerlm.training.state import TrainResult, TrainState
from steerlm.training.stragglers import Stragglers

NON_FINITE = "non_finite.jsonl"
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
    faults: FaultSettings | None = None,
    heartbeat: Heartbeat | None = None,
) -> TrainResult:
    """Train to the last step, from the newest complete checkpoint under `folder`/checkpoints if there is one.

    On return the engine holds the weights to export: the best by validation loss, or the last. `stop` is asked before
    every update and validation batch on every rank; if it says True on any, all save and raise `Interrupted`. Raises
    `TrainingError` naming the step, before its update, if a loss or gradient is not finite; with
    `faults.non_finite` retry, only if it happens again after the last checkpoint. `heartbeat` is told what begins.
    Collective.
    """
    heartbeat = heartbeat or Heartbeat(folder / "heartbeats", engine.layout.rank, 1)
    faults = faults or FaultSettings()
    loop = _Loop(engine, objective, data, validation, settings, layout, folder, sink, stop, faults, heartbeat)
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
        faults: FaultSettings,
        heartbeat: Heartbeat,
    ) -> None:
        self.engine, self.objective, self.settings = engine, objective, settings
        self.faults, self.heartbeat = faults, heartbeat
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
        self.progress = TrainState(run)
        self.saved = 0
        """The step of the newest checkpoint, begun or complete."""
        self.saved_at = time.monotonic()
        self.work = folder
        self.stragglers = Stragglers(engine, faults.straggler_every, heartbeat.who)
        self.went_back_for: int | None = None
        """The step that was not finite, if training has gone back to a checkpoint for it."""

    def resume(self) -> None:
        self.heartbeat.mark("resuming", 0)
        self.checkpoints.clean()
        self._restore()

    def _restore(self) -> None:
        """Go to the newest complete checkpoint, if there is one: of those that every process sees, because another
        machine may learn of a file later."""
        complete = self.checkpoints.complete()
        newest = int(min(first for (first,) in self.engine.gather([complete[-1] if complete else 0])))
        if newest:
            path = self.checkpoints.path(newest)
            # Before the tensors are read, which may be a terabyte.
            self.progress = TrainState.resumed(self.engine.state_of(path), self.progress.run, str(path))
            self.engine.load(path)
            self.saved = self.progress.step
            log.info("resumed at step %d of %d from %s", self.progress.step, self.total, path)
        self.sampler = Sampler(len(self.data), self.settings.seed, self.progress.consumed)

    def run(self) -> None:
        settings, stepped = self.settings, False
        while True:
            progress = self.progress
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
            if not stepped:  # the first step compiles and connects: until now processes waited long for each other
                self.engine.set_timeout(self.faults.collective_timeout_minutes)
            stepped = True

    def finish(self) -> TrainResult:
        progress = self.progress
        self.heartbeat.mark("exporting", progress.step)
        self.engine.set_timeout(self.faults.startup_timeout_minutes)
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
        self.heartbeat.mark("reading", progress.step + 1)
        began = time.perf_counter()
        units = self.sampler.take(settings.global_batch)
        work = batch(self.data, units.tolist(), self.row_tokens, self.engine.layout)
        reading = time.perf_counter() - began
        lr = learning_rate(settings.optimizer, progress.step, self.total)
        self.heartbeat.mark("training", progress.step + 1)
        self.stragglers.before_step()
        try:
            result = self.engine.step(work.rows, self.objective, lr, work.count)
        except NonFiniteError as error:
            self._not_finite(error, units.tolist())
            return
        if self.went_back_for == progress.step + 1:
            log.warning("step %d is finite this time: a hardware fault that passed", progress.step + 1)
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
            **self.stragglers.after_step(reading),
        }
        engine = self.engine
        fast = speed(work, seconds, engine.layout.world_size, engine.shape, engine.outputs, engine.device_name)
        metrics.update({f"train/{name}": value for name, value in fast.items()})
        self.sink.log(metrics, progress.step)
        collect_at(progress.step)

    def _not_finite(self, error: NonFiniteError, units: list[int]) -> None:
        """Record the batch; go back to the newest checkpoint, or raise `TrainingError`. Every rank does the same: the
        numbers are sums over all of them."""
        step = self.progress.step + 1
        self._finish_save()
        if self.engine.layout.rank == 0:
            log.error("step %d: %s; its batch, as units of the training set: %s", step, error, units)
            record = {"step": step, "units": units, "loss": repr(error.loss), "grad_norm": repr(error.grad_norm)}
            with open(self.work / NON_FINITE, "a", encoding="utf-8") as file:
                file.write(json.dumps({**record, "time": round(time.time(), 3)}) + "\n")
        if self.faults.non_finite == "retry" and self.went_back_for is None and self.saved:
            self.went_back_for = step
            with self._slow("going back"):
                self._restore()
            log.warning("went back to step %d for step %d, once", self.progress.step, step)
            return
        why = f"the newest checkpoint is of step {self.saved}" if self.saved else "there is no checkpoint to go back to"
        if self.went_back_for == step:
            why = (
                f"the same after going back to step {self.saved}, so no hardware fault that passes but the data or the "
                f"learning rate: the batch stands in {self.work / NON_FINITE}"
            )
        elif self.went_back_for is not None:
            why += f"; training has gone back once already, for step {self.went_back_for}"
        raise TrainingError(f"step {step}: {error}; {why}") from error

    @contextlib.contextmanager
    def _slow(self, phase: str) -> Iterator[None]:
        """Work in which the processes may wait long for one of them."""
        self.heartbeat.mark(phase, self.progress.step)
        self.engine.set_timeout(self.faults.startup_timeout_minutes)
        yield
        self.engine.set_timeout(self.faults.collective_timeout_minutes)

    def _validate(self, data: TokenDataset) -> bool:
        """Validate the current weights; True if no earlier ones were better."""
        progress, settings = self.progress, self.settings
        self.heartbeat.mark("validating", progress.step)
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
        self.heartbeat.mark("saving", self.progress.step)
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
