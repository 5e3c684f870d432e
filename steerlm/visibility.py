# SPDX-License-Identifier: Apache-2.0
"""Waiting for files that another machine has written to a shared file system.

A file system between machines may show a new file late, or for a while with its old size: NFS remembers names and
attributes for up to a minute. So the writer lists what it has written, and the reader waits until it sees exactly that.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from steerlm import attempt
from steerlm.checksums import FileDigest, digest_folder
from steerlm.errors import ConfigError, StorageError

LIMIT, LIMIT_SECONDS = "STEERLM_VISIBLE_SECONDS", 120.0
"""Environment variable with the longest wait in seconds, and its default: twice what NFS remembers."""
POLL_SECONDS = 0.5
log = logging.getLogger(__name__)


def wait_for_files(folder: Path, expected: Mapping[str, FileDigest], memory: Path | None = None) -> None:
    """Return once every expected file is visible with its size and checksum. There may be others.

    Args:
        folder: The folder that the names are relative to.
        expected: Digests by relative POSIX name.
        memory: See `digest_folder`; files are then read once, here or there.

    Raises:
        ConfigError: STEERLM_VISIBLE_SECONDS is no number.
        StorageError: A file is missing or differs at the limit; names it.
    """
    limit, start, waited = limit_seconds(), time.monotonic(), False
    while problem := _problem(folder, expected, memory):
        if time.monotonic() - start > limit:
            raise StorageError(f"{problem}; it did not become right within {limit:g} seconds; run again")
        if not waited:
            log.info("waiting for files of another machine: %s", problem)
            waited = True
        time.sleep(POLL_SECONDS)


def limit_seconds() -> float:
    """Return how long to wait for files that another machine has written. Raises `ConfigError` if it is no number."""
    try:
        return float(os.environ.get(LIMIT, LIMIT_SECONDS))
    except ValueError:
        raise ConfigError(f"{LIMIT}={os.environ[LIMIT]}: a number of seconds was expected") from None


def launchers_files_seconds() -> float:
    """Return how long a process of a job waits for what its launcher has written; outside of a pod not at all."""
    return limit_seconds() if attempt.folder() else 0.0


def wait_for_path(path: Path) -> Path:
    """Return a path that the launcher of this process's job has written, once it is seen here or time is over."""
    wait_until(path.exists, launchers_files_seconds())
    return path


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    """Wait until the condition holds, at most so long; it is for the caller to say what is still missing then."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(POLL_SECONDS)


def _problem(folder: Path, expected: Mapping[str, FileDigest], memory: Path | None) -> str | None:
    """Describe the first file that is not as expected. No content is read before all sizes are right."""
    for name, digest in expected.items():
        try:
            size = (folder / name).stat().st_size
        except FileNotFoundError:
            return f"{folder / name} is missing"
        if size != digest.size:
            return f"{folder / name} has {size} bytes, {digest.size} were expected"
    try:
        digests = digest_folder(folder, memory)
    except FileNotFoundError as error:  # a file that is not expected and has just been removed
        return f"{error.filename} has disappeared"
    for name, digest in expected.items():
        if (found := digests.get(name)) != digest:
            wrong = f"has the sha256 {found.sha256[:12]}..." if found else "is hidden"
            return f"{folder / name} {wrong}, {digest.sha256[:12]}... was expected"
    return None
