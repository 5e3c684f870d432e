# SPDX-License-Identifier: Apache-2.0
"""Runs a job to its end on any back end: waits, forwards log lines, retries, detects stalls, passes signals on."""

import dataclasses
import logging
import re
import signal
import time
from collections.abc import Callable

from steerlm.errors import InputError, Interrupted, TrainingError
from steerlm.jobs.backend import Backend, Job, JobStatus
from steerlm.jobs.config import JobSettings
from steerlm.signals import handled

POLL_SECONDS = 0.2
_COUNTS = re.compile(r" \(\d+ of \d+ pods\)|\d+")
"""What may change in a text on waiting without a new line for it: 32 pods do not start at once."""
log = logging.getLogger(__name__)


def launch(
    backend: Backend,
    job: Job,
    settings: JobSettings,
    on_line: Callable[[str], None],
    on_note: Callable[[str], None] = lambda text: None,
) -> None:
    """Run a job to its end, attaching to it if it is running already.

    After a first signal the job saves and stops before this returns; after a second one this returns at once, and the
    job saves and stops by itself. If the signal only moves this launcher elsewhere, the job goes on.

    Args:
        backend: Where the job runs.
        job: The job.
        settings: Attempts, and when a job counts as stalled.
        on_line: Called with every line that the job logs from now on.
        on_note: Called with what the job waits for whenever that changes, and with why it is started again.

    Raises:
        TrainingError: The job failed; the message has the worker's error and the path of the log.
        InputError: The same, for an error that the worker blames on its input.
        Interrupted: SIGTERM arrived, or the job was canceled elsewhere.
        KeyboardInterrupt: Ctrl-C.
    """
    offset = backend.logged(job)
    received: list[int] = []
    starts = 0
    with handled([signal.SIGINT, signal.SIGTERM], received.append):
        while True:
            watcher = _JobWatcher(backend, backend.ensure(job), settings, on_line, on_note, received, offset)
            status = watcher.wait()
            offset = watcher.offset
            starts = status.starts or starts + 1
            if status.state == "succeeded":
                return
            if watcher.left:
                raise Interrupted(f"this launcher is moved; {job.name} goes on, and the same command attaches to it")
            if received[:1] == [signal.SIGINT]:
                raise KeyboardInterrupt
            if status.state == "interrupted" or received:
                raise Interrupted(f"{job.name} was stopped; run the same command again to resume")
            for line in status.tail:
                log.info("%s", line)
                on_note(line)
            message = f"{job.name} failed: {status.message} (its log: {job.log})"
            if status.idle_starts >= settings.idle_attempts and status.starts and settings.attempts > 1:
                message += (
                    f"; its last {status.idle_starts} starts have reached no new step, so it is not started again"
                )
            elif not status.final and starts < settings.attempts:
                message += f"; starting attempt {starts + 1} of {settings.attempts}"
                log.warning("%s", message)
                on_note(message)
                continue
            raise (InputError if status.exit_code == 2 else TrainingError)(message)


class _JobWatcher:
    """Waits for one attempt to end. `left`: the job goes on without this launcher."""

    def __init__(
        self,
        backend: Backend,
        name: str,
        settings: JobSettings,
        on_line: Callable[[str], None],
        on_note: Callable[[str], None],
        signals: list[int],
        offset: int,
    ) -> None:
        self.backend, self.name, self.settings, self.on_line, self.on_note = backend, name, settings, on_line, on_note
        self.signals, self.offset, self.left = signals, offset, False
        self._clocks = _Clocks(settings)
        self._waits_for = ""

    def wait(self) -> JobStatus:
        canceled: float | None = None
        while True:
            status = self.backend.status(self.name)
            lines = self._forward_lines()
            if status.ended:
                return status
            self._show_waiting(status)
            if self.signals and canceled is None:
                if self.backend.drained():
                    self.left = True
                    return JobStatus("interrupted")
                canceled = time.monotonic()
                log.info("requesting that %s save and stop", self.name)
                self.backend.cancel(self.name)
            if len(self.signals) > 1:
                return JobStatus("interrupted")
            if canceled is not None and time.monotonic() - canceled > self.settings.grace_seconds:
                return self._kill(f"did not stop within {self.settings.grace_seconds:g} seconds")
            if reason := self._clocks.exceeded(status, logged=lines):
                return self._kill(reason)
            self.backend.wait(POLL_SECONDS)

    def _forward_lines(self) -> bool:
        """Pass new log lines on; return whether there were any."""
        start = self.offset
        for offset, line in self.backend.logs(self.name, start):
            self.offset = offset
            self.on_line(line)
        return self.offset > start

    def _show_waiting(self, status: JobStatus) -> None:
        text = f"{status.state}: {status.message}" if status.state in ("queued", "starting") else ""
        said = _COUNTS.sub("", text)
        if text and said != self._waits_for:
            log.info("%s is %s", self.name, text)
            self.on_note(text)
        self._waits_for = said

    def _kill(self, reason: str) -> JobStatus:
        self.backend.cancel(self.name, force=True)
        while not (status := self.backend.status(self.name)).ended:
            self.backend.wait(POLL_SECONDS)
        return dataclasses.replace(status, state="failed", message=reason, final=False, exit_code=1)


class _Clocks:
    """One limit each for the queue, for starting and for progress, by this process's own clock.

    The time in one state counts from when the job entered it, so that of progress stands still while it is suspended.
    """

    def __init__(self, settings: JobSettings) -> None:
        self._limits = {
            "queued": (settings.queue_minutes, "was not admitted"),
            "starting": (settings.startup_minutes, "did not start"),
            "running": (settings.no_progress_minutes, "showed no progress"),
        }
        self._state, self._progress, self._since = "", "", time.monotonic()

    def exceeded(self, status: JobStatus, *, logged: bool) -> str:
        """Return which limit is exceeded; empty if none is."""
        progress = status.progress if status.state == "running" else ""
        if status.state != self._state or progress != self._progress or logged:
            self._state, self._progress, self._since = status.state, progress, time.monotonic()
        minutes, what = self._limits[status.state]
        if minutes is None or time.monotonic() - self._since <= minutes * 60:
            return ""
        waits = f": {status.message}" if status.message and status.state != "running" else ""
        return f"{what} {'for' if status.state == 'running' else 'within'} {minutes:g} minutes{waits}"
