# SPDX-License-Identifier: Apache-2.0
"""Runs a job to its end on any back end: waits, forwards log lines, retries, detects stalls, passes signals on."""

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
    """Run a job to its end, attaching to it if it is running already.

    After a first signal the job saves and stops before this returns; after a second one this returns at once, and the
    job saves and stops by itself.

    Args:
        backend: Where the job runs.
        job: The job.
        settings: Attempts, and when a job counts as stalled.
        on_line: Called with every line that the job logs from now on.

    Raises:
        TrainingError: The job failed; the message has the worker's error and the path of the log.
        InputError: The same, for an error that the worker blames on its input.
        Interrupted: SIGTERM arrived, or the job was canceled elsewhere.
        KeyboardInterrupt: Ctrl-C.
    """
    offset = max((end for end, _ in backend.logs(job.name)), default=0)
    received: list[int] = []
    with handled([signal.SIGINT, signal.SIGTERM], received.append):
        for attempt in range(1, settings.attempts + 1):
            watcher = _JobWatcher(backend, backend.ensure(job), settings, on_line, received, offset)
            status = watcher.wait()
            offset = watcher.offset
            if status.state == "succeeded":
                return
            if received[:1] == [signal.SIGINT]:
                raise KeyboardInterrupt
            if status.state == "interrupted" or received:
                raise Interrupted(f"{job.name} was stopped; run the same command again to resume")
            message = f"{job.name} failed: {status.message} (its log: {job.log})"
            if status.final or attempt == settings.attempts:
                raise (InputError if status.exit_code == 2 else TrainingError)(message)
            log.warning("%s; starting attempt %d of %d", message, attempt + 1, settings.attempts)


class _JobWatcher:
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
        canceled: float | None = None
        progress = time.monotonic()
        while True:
            status = self.backend.status(self.name)
            if self._forward_lines():
                progress = time.monotonic()
            if status.ended:
                return status
            if self.signals and canceled is None:
                canceled = time.monotonic()
                log.info("requesting that %s save and stop", self.name)
                self.backend.cancel(self.name)
            if len(self.signals) > 1:
                return JobStatus("interrupted")
            if canceled is not None and time.monotonic() - canceled > self.settings.grace_seconds:
                return self._kill(f"did not stop within {self.settings.grace_seconds:g} seconds")
            if time.monotonic() - progress > self.settings.no_progress_minutes * 60:
                return self._kill(f"showed no progress for {self.settings.no_progress_minutes:g} minutes")
            time.sleep(POLL_SECONDS)

    def _forward_lines(self) -> bool:
        """Pass new log lines on; return whether there were any."""
        start = self.offset
        for offset, line in self.backend.logs(self.name, start):
            self.offset = offset
            self.on_line(line)
        return self.offset > start

    def _kill(self, reason: str) -> JobStatus:
        self.backend.cancel(self.name, force=True)
        while not self.backend.status(self.name).ended:
            time.sleep(POLL_SECONDS)
        return JobStatus("failed", reason)
