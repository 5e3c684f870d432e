# SPDX-License-Identifier: Apache-2.0
"""Sees a job through on any back end: waits, hands on its log, counts attempts, notices a stall, passes signals on."""

import logging
import signal
import time
from collections.abc import Callable

from steerlm.errors import InputError, Interrupted, TrainingError
from steerlm.jobs.backend import Backend, Job, JobStatus
from steerlm.jobs.config import JobSettings
from steerlm.signals import handled

POLL_SECONDS = 0.2
log = logging.getLogger(__name__)


def launch(backend: Backend, job: Job, settings: JobSettings, on_line: Callable[[str], None]) -> None:
    """Run a job to its end, or go on with it if it runs already. `on_line` gets each new line of its log.

    Raises `TrainingError` (`InputError` where the worker said its input is bad) with what the worker said and where
    its log is; `Interrupted` after SIGTERM, `KeyboardInterrupt` after Ctrl-C, once the job has saved and stopped. A
    second signal does not wait for that; the job saves and stops alone.
    """
    offset = job.log.stat().st_size if job.log.exists() else 0
    received: list[int] = []
    with handled([signal.SIGINT, signal.SIGTERM], received.append):
        for attempt in range(1, settings.attempts + 1):
            name = backend.ensure(job)
            watch = _Watch(backend, name, settings, on_line, received, offset)
            status = watch.wait()
            offset = watch.offset
            if status.state == "succeeded":
                return
            if received[:1] == [signal.SIGINT]:
                raise KeyboardInterrupt
            if status.state == "interrupted" or received:
                raise Interrupted(f"{job.name} was asked to stop; run the same command to go on")
            message = f"{job.name} failed: {status.message} (its log: {job.log})"
            if status.final or attempt == settings.attempts:
                raise (InputError if status.exit_code == 2 else TrainingError)(message)
            log.warning("%s; attempt %d of %d follows", message, attempt + 1, settings.attempts)


class _Watch:
    """Waits for one attempt to end."""

    def __init__(
        self,
        backend: Backend,
        name: str,
        settings: JobSettings,
        on_line: Callable[[str], None],
        signals: list[int],
        offset: int,
    ) -> None:
        self.backend, self.name, self.settings, self.on_line = backend, name, settings, on_line
        self.signals, self.offset = signals, offset

    def wait(self) -> JobStatus:
        asked: float | None = None
        progress = time.monotonic()
        while True:
            status = self.backend.status(self.name)
            if self._hand_on():
                progress = time.monotonic()
            if status.ended:
                return status
            if self.signals and asked is None:
                asked = time.monotonic()
                log.info("asking %s to save and stop", self.name)
                self.backend.cancel(self.name)
            if len(self.signals) > 1:
                return JobStatus("interrupted")
            if asked is not None and time.monotonic() - asked > self.settings.grace_seconds:
                return self._end(f"did not stop within {self.settings.grace_seconds:g} seconds")
            if time.monotonic() - progress > self.settings.no_progress_minutes * 60:
                return self._end(f"showed no progress for {self.settings.no_progress_minutes:g} minutes")
            time.sleep(POLL_SECONDS)

    def _hand_on(self) -> bool:
        """Pass new log lines on; whether there were any."""
        began = self.offset
        for offset, line in self.backend.logs(self.name, began):
            self.offset = offset
            self.on_line(line)
        return self.offset > began

    def _end(self, why: str) -> JobStatus:
        self.backend.cancel(self.name, force=True)
        while not self.backend.status(self.name).ended:
            time.sleep(POLL_SECONDS)
        return JobStatus("failed", why)
