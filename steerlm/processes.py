# SPDX-License-Identifier: Apache-2.0
"""Processes of this machine by number and start time: a number is given to another process later, both are not."""

import contextlib
import os
import signal
from pathlib import Path


def state(pid: int) -> tuple[str, str] | None:
    """(state as `ps` shows it, start time in the kernel's ticks); None if there is none or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else (fields[0], fields[19])


def started(pid: int) -> str | None:
    """When a process started, in the kernel's ticks; None if there is none or it is a zombie."""
    found = state(pid)
    return found[1] if found else None


def kill(pid: int, since: str | None) -> bool:
    """SIGKILL the process that started at `since`: the one signal that ends a stopped process too. False if it is gone
    or may not be killed."""
    if since is None or started(pid) != since:
        return False
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False
