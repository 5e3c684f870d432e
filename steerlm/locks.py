# SPDX-License-Identifier: Apache-2.0
"""An exclusive lock on a path, between the processes of all machines that share the file system.

Uses `flock` where the file system supports it: the kernel releases the lock of a dead process. Elsewhere (Lustre
mounted without -o flock, s3fs, some FUSE mounts) the lock is a file that is created exclusively and names its owner.
The owner touches it regularly, so that others can tell a lock that is held from one that a dead machine left behind.

On a cluster neither reaches every node. There the environment variable STEERLM_LOCKS names a service of `SERVICES` that
holds the locks instead. It is a variable, so that the processes that a launcher starts use the same locks.
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
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Protocol

from steerlm.errors import ConfigError, StorageError
from steerlm.processes import start_time

UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""Error numbers of `flock` on a file system that does not support it."""
POLL_SECONDS = 0.2
HEARTBEAT_SECONDS = 10.0
LEFT_BEHIND_SECONDS = 120.0
"""A lock file of another machine counts as left behind when it was not touched for so long."""
OWNER = ".owner"
SERVICE = "STEERLM_LOCKS"
SERVICES = {"lease": "steerlm.jobs.kubernetes.lease"}
"""By the value of STEERLM_LOCKS: a module with a function `hold` like `LockService`, imported when it is needed."""
log = logging.getLogger(__name__)


class LockHeldError(StorageError):
    """Another process holds the lock. `holder`: its description, if known."""

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(f"{path}: {holder} holds it; wait for it to end")
        self.holder = holder


class Held(Protocol):
    """A lock that this process holds."""

    def check(self) -> None:
        """Confirm, immediately before something is published, that the lock is still held.

        Raises:
            StorageError: It is not: names who has taken it over.
        """

    def retire(self) -> None:
        """Leave no trace of the lock on release, because what it protects has been deleted."""


class LockService(Protocol):
    """Holds a lock like `hold`, by other means than the file system."""

    def __call__(
        self, path: Path, on_wait: Callable[[str], None] | None, *, wait: bool
    ) -> AbstractContextManager[Held]:
        """Return a context manager that holds the lock on `path`."""


@contextlib.contextmanager
def hold(
    path: Path, on_wait: Callable[[str], None] | None = None, *, wait: bool = True, sign: bool = True
) -> Iterator[Held]:
    """Hold the lock on `path` during the block. The lock file is kept afterwards.

    Args:
        path: The lock file; its folder must exist.
        on_wait: Called once with a description of the holder, before waiting.
        wait: Whether to wait for a lock that is held.
        sign: Write the holder into the file. False for a file with content of its own.

    Raises:
        ConfigError: STEERLM_LOCKS names no service.
        LockHeldError: The lock is held and `wait` is False.
        StorageError: Another machine left the lock behind; names the file to delete.
    """
    if (service := _service()) is not None:
        path.touch()  # whoever cleans up takes the file as the sign that a folder has a lock
        with service(path, on_wait, wait=wait) as held:
            yield held
        return
    with contextlib.ExitStack() as stack:
        try:
            file = _flock(path, on_wait, wait, sign)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            yield stack.enter_context(_owner_file(path, on_wait, wait))
        else:
            yield _FileLock(path, stack.enter_context(file))


def _service() -> LockService | None:
    name = os.environ.get(SERVICE)
    if not name:
        return None
    if name not in SERVICES:
        raise ConfigError(f"{SERVICE}={name}: no such service; {' or '.join(SERVICES)} was expected, or none")
    service: LockService = import_module(SERVICES[name]).hold
    return service


class _FileLock:
    """A lock by `flock`. The kernel keeps it as long as the process lives, so only its file can get lost."""

    def __init__(self, path: Path, file: IO[str]) -> None:
        self._path, self._file = path, file

    def check(self) -> None:
        if not _same(self._file, self._path):
            raise StorageError(f"{self._path} was deleted while this process held it; run again")

    def retire(self) -> None:
        self._path.unlink(missing_ok=True)


def _flock(path: Path, on_wait: Callable[[str], None] | None, wait: bool, sign: bool) -> IO[str]:
    """Return the opened lock file, locked; closing it releases the lock."""
    while True:
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                _busy(path, (sign and file.read().strip()) or "another process", on_wait, wait)
                fcntl.flock(file, fcntl.LOCK_EX)
            if _same(file, path):
                break
        except BaseException:
            file.close()
            raise
        file.close()  # deleted while this process waited: whoever comes later locks another file
        path.parent.mkdir(parents=True, exist_ok=True)
    if sign:
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()}")
        file.flush()
    return file


def _same(file: IO[str], path: Path) -> bool:
    """Whether an open file still has the name `path`."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _busy(path: Path, holder: str, on_wait: Callable[[str], None] | None, wait: bool) -> None:
    if not wait:
        raise LockHeldError(path, holder)
    if on_wait:
        on_wait(holder)


class _OwnerFile:
    """A lock by a file that names its owner."""

    def __init__(self, path: Path, owner: Path, own: dict[str, Any]) -> None:
        self._path, self._owner, self._own = path, owner, own

    def check(self) -> None:
        if (current := _read(self._owner)) != self._own:
            raise StorageError(f"{self._path} was taken over by {_describe(current)}; run again after it")

    def retire(self) -> None:
        self._path.unlink(missing_ok=True)


@contextlib.contextmanager
def _owner_file(path: Path, on_wait: Callable[[str], None] | None, wait: bool) -> Iterator[Held]:
    """Hold the file `path`.owner. Processes of one machine take turns at a mutex: only one replaces a dead owner."""
    owner = path.with_name(path.name + OWNER)
    own = {"machine": _machine(), "host": socket.gethostname(), "pid": os.getpid(), "started": start_time(os.getpid())}
    with _machine_mutex(path, lambda: _busy(path, _describe(_read(owner)), on_wait, wait)):
        while not _create(owner, own):
            _wait_for(path, owner, on_wait, wait)
        released = threading.Event()
        beat = threading.Thread(target=_beat, args=(owner, released), name="lock heartbeat", daemon=True)
        beat.start()
        try:
            yield _OwnerFile(path, owner, own)
        finally:
            released.set()
            beat.join()
            if _read(owner) == own:
                owner.unlink(missing_ok=True)


@contextlib.contextmanager
def _machine_mutex(path: Path, on_busy: Callable[[], None]) -> Iterator[None]:
    """Admit one process of this machine at a time, by a socket name that the kernel frees when its process dies."""
    name = "\0steerlm-" + hashlib.sha256(str(path.resolve()).encode()).hexdigest()
    reported = False
    with socket.socket(socket.AF_UNIX) as mutex:
        while True:
            try:
                mutex.bind(name)
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            if not reported:
                reported = True
                on_busy()
            time.sleep(POLL_SECONDS)
        yield


def _wait_for(path: Path, owner: Path, on_wait: Callable[[str], None] | None, wait: bool) -> None:
    """Return once `owner` is released, or removed because its process on this machine is dead."""
    reported = False
    last_modified, since = -1.0, time.monotonic()
    while (modified := _modified(owner)) is not None:
        other = _read(owner)
        holder = _describe(other)
        if other and other["machine"] == _machine():
            if start_time(other["pid"]) != other["started"]:
                log.warning("%s: %s, which held this lock, is dead; taking it over", owner, holder)
                owner.unlink(missing_ok=True)
                return
            since = time.monotonic()
        if not reported:
            reported = True
            _busy(path, holder, on_wait, wait)
        if modified != last_modified:  # measured by our clock: those of two machines may differ
            last_modified, since = modified, time.monotonic()
        if time.monotonic() - since > LEFT_BEHIND_SECONDS:
            raise StorageError(
                f"{owner}: {holder} holds this lock and has not touched it for {LEFT_BEHIND_SECONDS:g} seconds; "
                "if it is no longer running, delete this file and start again"
            )
        time.sleep(POLL_SECONDS)


def _describe(owner: dict[str, Any] | None) -> str:
    return f"process {owner['pid']} on {owner['host']}" if owner else "another process"


def _modified(owner: Path) -> float | None:
    try:
        return owner.stat().st_mtime
    except FileNotFoundError:
        return None


def _create(owner: Path, own: dict[str, Any]) -> bool:
    try:
        with open(owner, "x", encoding="utf-8") as file:
            json.dump(own, file)
    except FileExistsError:
        return False
    return True


def _read(owner: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(owner.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content


def _beat(owner: Path, released: threading.Event) -> None:
    while not released.wait(HEARTBEAT_SECONDS):
        with contextlib.suppress(OSError):  # deleted by hand, or a file system that does not respond for a moment
            os.utime(owner)


def _machine() -> str:
    """Identify this boot of this machine and its PID namespace: two containers of one host have different ones."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    try:
        return f"{boot.read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()
