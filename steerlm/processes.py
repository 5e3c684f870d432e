# SPDX-License-Identifier: Apache-2.0
"""Processes of this machine, identified by number and start time: the number alone is reused."""

import contextlib
import os
import signal
from pathlib import Path


def state(pid: int) -> tuple[str, str] | None:
    """Return (state as `ps` shows it, start time in the kernel's ticks); None if it does not exist or is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else (fields[0], fields[19])


def start_time(pid: int) -> str | None:
    """Return when a process started, in the kernel's ticks; None if it does not exist or is a zombie."""
    current = state(pid)
    return current[1] if current else None


def kill(pid: int, since: str | None) -> bool:
    """Send SIGKILL, which ends a stopped process too, to the process that started at `since`.

    Returns False if it does not exist any more or may not be killed.
    """
    if since is None or start_time(pid) != since:
        return False
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False
