# SPDX-License-Identifier: Apache-2.0
"""The training loop: updates, validation, checkpoints, resume and stop. Drives any `Engine`.

The layout only decides where a row is computed: order, loss and resume are the same on every layout.
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
from steerlm.training.batches import build_batch, check_fits, validation_batches
from steerlm.training.checkpoints import CHECKPOINTS, Checkpoints
from steerlm.training.config import TrainSettings
from steerlm.training.dataset import TokenDataset
from steerlm.training.engine import Engine, Objective, Statistics, StepResult
from steerlm.training.garbage import collect_at, scheduled_collection
from steerlm.training.heartbeat import Heartbeat
from steerlm.training.layout import FaultSettings, LayoutSettings
from steerlm.training.sampler import Sampler, total_steps
from steerlm.training.schedule import learning_rate
from steerlm.training.sink import Sink
from steerlm.training.speed import speed_metrics
from steerlm.training.state import TrainResult, TrainState
from steerlm.training.stragglers import Stragglers

NON_FINITE = "non_finite.jsonl"
"""Where the batches of steps that were not finite are recorded."""
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
    """Train to the last step, resuming from the newest complete checkpoint, and load the weights to export. Collective.

    Args:
        data: Training set.
        validation: Validation set; None to skip validation.
        folder: Keeps checkpoints and the record of batches that were not finite.
        stop: Called on every rank before each update and validation batch. If it returns True on any rank, all save
            and raise `Interrupted`.
        faults: Timeouts, and whether to go back to a checkpoint after a loss or gradient that is not finite.
        heartbeat: Receives each phase of this process.

    Returns:
        The result. The engine holds the weights of its `exported_step`: the best by validation loss, or the last.

    Raises:
        Interrupted: `stop` returned True.
        TrainingError: A loss or gradient is not finite, before that step's update; with `faults.non_finite` "retry",
            only if it happens again.
        ConfigError: Settings, data and layout do not fit each other.
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
        learning_rate(settings.optimizer, 0, self.total)  # fail now if the schedule does not fit
        self.checkpoints = Checkpoints(folder / CHECKPOINTS, settings.keep, engine.layout.rank == 0)
        run = {
            "seed": settings.seed,
            "global_batch": settings.global_batch,
            **objective.fingerprint(),
            "data": data.key,
        }
        self.state = TrainState(run)
        self.saved = 0
        """The step of the newest checkpoint, complete or being written."""
        self.saved_at = time.monotonic()
        self.folder = folder
        self.stragglers = Stragglers(engine, faults.straggler_every, heartbeat.describe)
        self.went_back_for: int | None = None
        """The step that was not finite, if training went back to a checkpoint because of it."""

    def resume(self) -> None:
        self.heartbeat.mark("resuming", 0)
        self.checkpoints.clean()
        self._restore()

    def _restore(self) -> None:
        """Load the newest checkpoint that is complete on every process: a file system may show a file to some later."""
        complete = self.checkpoints.complete()
        newest = int(min(first for (first,) in self.engine.gather([complete[-1] if complete else 0])))
        if newest:
            path = self.checkpoints.path(newest)
            # Checked before reading the tensors, which may be a terabyte.
            self.state = TrainState.resumed(self.engine.read_state(path), self.state.run, str(path))
            self.engine.load(path)
            self.saved = self.state.step
            log.info("resumed at step %d of %d from %s", self.state.step, self.total, path)
        self.sampler = Sampler(len(self.data), self.settings.seed, self.state.consumed)

    def run(self) -> None:
        settings, stepped = self.settings, False
        while True:
            state = self.state
            improved = False
            due = self._due(settings.validate_every) and state.validated != state.step
            if due and self.validation is not None:
                improved = self._validate(self.validation)
            best, last = improved and settings.export == "best", state.step >= self.total
            if best or self._due(settings.save_every):
                self._save()
            if best or last:  # the best is read again at the end; a finished run must be complete
                self._finish_save()
            if last:
                return
            self._stop_or_save_if_due()
            self._step()
            if not stepped:  # the first step compiles and connects, so the timeout was long until now
                self.engine.set_timeout(self.faults.collective_timeout_minutes)
            stepped = True

    def finish(self) -> TrainResult:
        state = self.state
        self.heartbeat.mark("exporting", state.step)
        self.engine.set_timeout(self.faults.startup_timeout_minutes)
        exported, metrics = state.step, state.metrics
        if self.settings.export == "best" and state.best_step is not None:
            exported, metrics = state.best_step, state.best_metrics
        if exported != state.step:
            log.info("exporting step %d, the best by validation loss", exported)
            self.engine.load_weights(self.checkpoints.path(exported))
        counts = {"train": self.data.counts} | ({"validation": self.validation.counts} if self.validation else {})
        if self.unused:
            log.info("%d units at the end fill no global batch of %d", self.unused, self.settings.global_batch)
        return TrainResult(
            steps=state.step,
            exported_step=exported,
            best_step=state.best_step,
            best_loss=state.best_loss,
            metrics=metrics,
            last_metrics=state.metrics,
            counts=counts,
            unused_units=self.unused,
            tokens=state.tokens,
            real_token_share=state.real_token_share,
            seconds=state.seconds,
        )

    def _step(self) -> None:
        state, settings = self.state, self.settings
        self.heartbeat.mark("reading", state.step + 1)
        start = time.perf_counter()
        units = self.sampler.take(settings.global_batch)
        batch = build_batch(self.data, units.tolist(), self.row_tokens, self.engine.layout)
        reading = time.perf_counter() - start
        lr = learning_rate(settings.optimizer, state.step, self.total)
        self.heartbeat.mark("training", state.step + 1)
        self.stragglers.before_step()
        try:
            result = self.engine.step(batch.rows, self.objective, lr, batch.count)
        except NonFiniteError as error:
            self._not_finite(error, units.tolist())
            return
        if self.went_back_for == state.step + 1:
            log.warning("step %d is finite this time: a transient hardware fault", state.step + 1)
        seconds = time.perf_counter() - start
        state.step += 1
        state.consumed = self.sampler.consumed
        state.tokens += batch.tokens
        state.computed += batch.computed
        state.seconds += seconds
        metrics = {
            "train/loss": result.loss,
            "train/lr": lr,
            "train/grad_norm": result.grad_norm,
            "train/tokens_per_second": batch.tokens / seconds,
            "train/real_token_share": batch.tokens / batch.computed,
            "train/step_seconds": seconds,
            "train/epoch": state.consumed / len(self.data),
            "train/consumed_units": state.consumed,
            **self.stragglers.after_step(reading),
        }
        engine = self.engine
        speed = speed_metrics(
            batch, seconds, engine.layout.world_size, engine.shape, engine.outputs, engine.device_name
        )
        metrics.update({f"train/{name}": value for name, value in speed.items()})
        self.sink.log(metrics, state.step)
        collect_at(state.step)

    def _not_finite(self, error: NonFiniteError, units: list[int]) -> None:
        """Record the batch, then go back to the newest checkpoint or raise `TrainingError`.

        Every rank does the same, because the loss and the norm are sums over all of them.
        """
        step = self.state.step + 1
        self._finish_save()
        if self.engine.layout.rank == 0:
            log.error("step %d: %s; its batch, as units of the training set: %s", step, error, units)
            record = {"step": step, "units": units, "loss": repr(error.loss), "grad_norm": repr(error.grad_norm)}
            with open(self.folder / NON_FINITE, "a", encoding="utf-8") as file:
                file.write(json.dumps({**record, "time": round(time.time(), 3)}) + "\n")
        if self.faults.non_finite == "retry" and self.went_back_for is None and self.saved:
            self.went_back_for = step
            with self._long_timeout("going back"):
                self._restore()
            log.warning("went back to step %d for step %d, once", self.state.step, step)
            return
        reason = f"the newest checkpoint is step {self.saved}" if self.saved else "there is no checkpoint to go back to"
        if self.went_back_for == step:
            reason = (
                f"it happened again after going back to step {self.saved}, so the cause is not a transient hardware "
                f"fault but the data or the learning rate; the batch is recorded in {self.folder / NON_FINITE}"
            )
        elif self.went_back_for is not None:
            reason += f"; training has gone back once already, for step {self.went_back_for}"
        raise TrainingError(f"step {step}: {error}; {reason}") from error

    @contextlib.contextmanager
    def _long_timeout(self, phase: str) -> Iterator[None]:
        """Raise the collective timeout for work in which processes may wait long for one of them."""
        self.heartbeat.mark(phase, self.state.step)
        self.engine.set_timeout(self.faults.startup_timeout_minutes)
        yield
        self.engine.set_timeout(self.faults.collective_timeout_minutes)

    def _validate(self, data: TokenDataset) -> bool:
        """Validate the current weights and return whether they are the best so far."""
        state, settings = self.state, self.settings
        self.heartbeat.mark("validating", state.step)
        start = time.perf_counter()
        total = StepResult(0.0, 0, {})
        for units in validation_batches(data, settings.global_batch, settings.validation_batches):
            if any(self.engine.agree(self.stop())):
                self._stop()
            batch = build_batch(data, units, self.row_tokens, self.engine.layout)
            total = _sum(total, self.engine.evaluate(batch.rows, self.objective))
        if not math.isfinite(total.loss):
            raise TrainingError(f"the validation loss after step {state.step} is {total.loss}")
        seconds = time.perf_counter() - start
        state.validated = state.step
        state.seconds += seconds
        state.metrics = {"loss": total.loss, **self.objective.summarize(total.statistics)}
        improved = state.best_loss is None or total.loss < state.best_loss
        if improved:
            state.best_step, state.best_loss, state.best_metrics = state.step, total.loss, state.metrics
        logged = {f"validation/{name}": value for name, value in state.metrics.items()}
        self.sink.log({**logged, "validation/seconds": seconds}, state.step)
        return improved

    def _save(self) -> None:
        """Start a checkpoint of the current step, which is written while training continues."""
        if self.saved == self.state.step:
            return
        self.heartbeat.mark("saving", self.state.step)
        self._finish_save()
        self.engine.save(self.checkpoints.path(self.state.step), self.state.as_json())
        self.saved, self.saved_at = self.state.step, time.monotonic()

    def _finish_save(self) -> None:
        """Wait until the started checkpoint is complete, if there is one."""
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
        self.sink.log(seconds, self.state.step)
        self.checkpoints.prune(self.state.best_step)

    def _stop_or_save_if_due(self) -> None:
        """Stop, save or finish a save in the same step on all ranks, which agree as each notices it at its own time."""
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
        """Save and raise `Interrupted`."""
        if self.state.step == 0:
            raise Interrupted("stopped before the first step, nothing to save")
        self._save()
        self._finish_save()
        step, path = self.state.step, self.checkpoints.path(self.state.step)
        raise Interrupted(f"stopped after step {step} of {self.total}, saved in {path}; the same command resumes")

    def _due(self, every: int | None) -> bool:
        """Whether this is the last step or a multiple of `every`."""
        step = self.state.step
        return step == self.total or bool(every and step and step % every == 0)


def _sum(a: StepResult, b: StepResult) -> StepResult:
    statistics: Statistics = {
        name: a.statistics[name] + value if a.statistics else value for name, value in b.statistics.items()
    }
    return dataclasses.replace(a, loss_sum=a.loss_sum + b.loss_sum, count=a.count + b.count, statistics=statistics)
