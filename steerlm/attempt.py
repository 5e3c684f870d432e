# SPDX-License-Identifier: Apache-2.0
"""What the process of a job on a cluster has to do with its launcher: nothing but files in its attempt's folder.

    JOB/attempts/current           number of the attempt that may publish files
    JOB/attempts/N/stop            a request to save and stop
    JOB/attempts/N/heartbeat.json  phase and step, by which the launcher sees progress

A pod may go on for hours after its node was given up, while a later attempt trains. So everything that others read is
published only after `check_current`. Outside of a pod, where STEERLM_ATTEMPT_FOLDER is not set, there is one attempt
and every function here does nothing.
"""

import contextlib
import functools
import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from steerlm.errors import SupersededError
from steerlm.files import partial_path, unique_writer

FOLDER = "STEERLM_ATTEMPT_FOLDER"
"""Environment variable that names the attempt's folder."""
CURRENT, STOP, HEARTBEAT = "current", "stop", "heartbeat.json"
INTERVAL = 1.0
"""Seconds between two reports of the same phase, and between two looks for a request to stop."""
BUSY = 32
"""As many processes may report and look in each interval; where there are more, each does so less often."""
VISIBLE_SECONDS = 60.0
"""How long a shared file system may take to show a file that another machine has written."""
POLL_SECONDS = 0.5
log = logging.getLogger(__name__)


def folder() -> Path | None:
    """Return the folder of this process's attempt; None outside of a pod."""
    value = os.environ.get(FOLDER)
    return Path(value) if value else None


def check_current() -> None:
    """Check that this is the attempt that may publish files. Call it right before one is published.

    Raises:
        SupersededError: A later attempt was started, or the job's records are gone.
    """
    if (attempt := _attempt()) and not attempt.current():
        raise SupersededError(
            f"{attempt.folder}: attempt {attempt.newest() or 'none'} of this job is the current one, so this process "
            "publishes nothing more and ends"
        )


def report(phase: str, step: int | Callable[[], int], processes: int = 1) -> None:
    """Tell the launcher what the job does. Writes at once if the phase has changed, else at most every second.

    Args:
        phase: What it does.
        step: How far it is; a function is called only if the step is written.
        processes: How many processes of the job report.
    """
    if attempt := _attempt():
        attempt.report(phase, step, processes)


def reported(folder: Path) -> dict[str, Any]:
    """Return what rank 0 has reported in an attempt's folder: `phase` and `step`; empty if it has not."""
    try:
        content: dict[str, Any] = json.loads((folder / HEARTBEAT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content


def stop_requested(processes: int = 1) -> bool:
    """Return whether the launcher has requested a stop, or has started a later attempt. Looks at most every second.

    `processes`: how many processes of the job look.
    """
    attempt = _attempt()
    return attempt is not None and attempt.stop_requested(processes)


def _interval(processes: int) -> float:
    """Return the pause of each of so many processes: all of them together are one load on the shared file system."""
    return INTERVAL * max(1.0, processes / BUSY)


def _attempt() -> "_Attempt | None":
    path = folder()
    return _attempt_in(path, os.getpid()) if path else None


@functools.cache
def _attempt_in(folder: Path, pid: int) -> "_Attempt":
    return _Attempt(folder)


class _Attempt:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._phase, self._reported = "", -INTERVAL
        self._stop, self._looked = False, -INTERVAL

    def newest(self) -> str:
        try:
            return (self.folder.parent / CURRENT).read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return ""

    def current(self) -> bool:
        end = time.monotonic() + VISIBLE_SECONDS
        while not (newest := self.newest()) and time.monotonic() < end:
            time.sleep(POLL_SECONDS)
        return newest == self.folder.name

    def report(self, phase: str, step: int | Callable[[], int], processes: int) -> None:
        now = time.monotonic()
        if phase == self._phase and now - self._reported < _interval(processes):
            return
        step = step if isinstance(step, int) else step()
        self._phase, self._reported = phase, now
        path = self.folder / HEARTBEAT
        partial = partial_path(path, unique_writer())
        try:
            partial.write_text(json.dumps({"phase": phase, "step": step}), encoding="utf-8")
            partial.replace(path)
        except OSError as error:  # a file system that fails for a while must not end the work
            log.warning("heartbeat: %s", error)

    def stop_requested(self, processes: int) -> bool:
        now = time.monotonic()
        if not self._stop and now - self._looked >= _interval(processes):
            self._looked = now
            with contextlib.suppress(OSError):  # as in `report`
                newest = self.newest()
                self._stop = (self.folder / STOP).exists() or (newest != "" and newest != self.folder.name)
        return self._stop
