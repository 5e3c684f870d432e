# SPDX-License-Identifier: Apache-2.0
"""An exclusive lock of a path, between the processes of all machines that see it.

`flock` where the file system has it: the kernel gives the lock of a dead process back. Where it has not (Lustre mounted
without -o flock, s3fs, some FUSE mounts) the lock is a file that is created exclusively and names its owner. The owner
touches it while it works, so that others can tell a lock that is held from one that a machine left behind.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from steerlm.errors import StorageError
from steerlm.processes import started

UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""What `flock` raises on a file system without it."""
POLL_SECONDS = 0.2
HEARTBEAT_SECONDS = 10.0
LEFT_BEHIND_SECONDS = 120.0
"""A lock file of another machine that was not touched for so long has no owner any more."""
OWNER = ".owner"
log = logging.getLogger(__name__)


class LockHeldError(StorageError):
    """Another process holds the lock. `holder`: which, as far as it says."""

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(f"{path}: {holder} holds it; wait for it to end")
        self.holder = holder


@contextlib.contextmanager
def hold(
    path: Path, on_wait: Callable[[str], None] | None = None, *, wait: bool = True, sign: bool = True
) -> Iterator[None]:
    """Hold the lock `path`, a file that stays; its folder must exist.

    `sign`: write the holder into the file, which is made for this purpose; without, its content is left alone.
    `on_wait` is called once, with the holder, before waiting. Without `wait` a held lock raises `LockHeldError`. Raises
    `StorageError` naming the file to delete if a machine that no longer works on it left it behind.
    """
    with open(path, "a+", encoding="utf-8") as file:
        try:
            supported = _flock(file, path, on_wait, wait, sign)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            supported = False
        with contextlib.nullcontext() if supported else _owner_file(path, on_wait, wait):
            yield


def _flock(file: IO[str], path: Path, on_wait: Callable[[str], None] | None, wait: bool, sign: bool) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        _busy(path, (sign and file.read().strip()) or "another process", on_wait, wait)
        fcntl.flock(file, fcntl.LOCK_EX)
    if sign:
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()}")
        file.flush()
    return True


def _busy(path: Path, holder: str, on_wait: Callable[[str], None] | None, wait: bool) -> None:
    if not wait:
        raise LockHeldError(path, holder)
    if on_wait:
        on_wait(holder)


@contextlib.contextmanager
def _owner_file(path: Path, on_wait: Callable[[str], None] | None, wait: bool) -> Iterator[None]:
    """Hold `path`.owner. Processes of one machine queue at its mutex, so that only one replaces a dead owner."""
    owner = path.with_name(path.name + OWNER)
    own = {"machine": _machine(), "host": socket.gethostname(), "pid": os.getpid(), "started": started(os.getpid())}
    with _machine_mutex(path, lambda: _busy(path, _describe(_read(owner)), on_wait, wait)):
        while not _create(owner, own):
            _wait_for(path, owner, on_wait, wait)
        released = threading.Event()
        beat = threading.Thread(target=_beat, args=(owner, released), name="lock heartbeat", daemon=True)
        beat.start()
        try:
            yield
        finally:
            released.set()
            beat.join()
            if _read(owner) == own:
                owner.unlink(missing_ok=True)


@contextlib.contextmanager
def _machine_mutex(path: Path, on_busy: Callable[[], None]) -> Iterator[None]:
    """One process of this machine at a time: a socket name that the kernel gives to one and frees at its death."""
    name = "\0steerlm-" + hashlib.sha256(str(path.resolve()).encode()).hexdigest()
    said = False
    with socket.socket(socket.AF_UNIX) as mutex:
        while True:
            try:
                mutex.bind(name)
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            if not said:
                said = True
                on_busy()
            time.sleep(POLL_SECONDS)
        yield


def _wait_for(path: Path, owner: Path, on_wait: Callable[[str], None] | None, wait: bool) -> None:
    """Return when `owner` is gone: released, or removed because its process on this machine is dead."""
    said = False
    touched, since = -1.0, time.monotonic()
    while (modified := _modified(owner)) is not None:
        other = _read(owner)
        holder = _describe(other)
        if other and other["machine"] == _machine():
            if started(other["pid"]) != other["started"]:
                log.warning("%s: %s, which held this lock, is dead; taking it over", owner, holder)
                owner.unlink(missing_ok=True)
                return
            since = time.monotonic()
        if not said:
            said = True
            _busy(path, holder, on_wait, wait)
        if modified != touched:  # judged by our clock: those of two machines may differ
            touched, since = modified, time.monotonic()
        if time.monotonic() - since > LEFT_BEHIND_SECONDS:
            raise StorageError(
                f"{owner}: {holder} holds this lock and has not touched it for {LEFT_BEHIND_SECONDS:g} seconds; "
                "if it no longer runs, delete this file and start again"
            )
        time.sleep(POLL_SECONDS)


def _describe(owner: dict[str, Any] | None) -> str:
    return f"process {owner['pid']} on {owner['host']}" if owner else "another process"


def _modified(owner: Path) -> float | None:
    try:
        return owner.stat().st_mtime
    except FileNotFoundError:
        return None


def _create(owner: Path, us: dict[str, Any]) -> bool:
    try:
        with open(owner, "x", encoding="utf-8") as file:
            json.dump(us, file)
    except FileExistsError:
        return False
    return True


def _read(owner: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(owner.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def _beat(owner: Path, released: threading.Event) -> None:
    while not released.wait(HEARTBEAT_SECONDS):
        with contextlib.suppress(OSError):  # deleted by hand, or a file system that is away for a moment
            os.utime(owner)


def _machine() -> str:
    """This boot of this machine, and its process numbers: two containers of one host do not share them."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    try:
        return f"{boot.read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()
