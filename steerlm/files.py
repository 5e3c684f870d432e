# SPDX-License-Identifier: Apache-2.0
"""Files and folders that appear under their name only when complete, and reading of text files.

An unfinished file is in the same folder under a hidden name that ends in `.partial`. It takes the place of its target
in one rename, so a reader sees the old content or the new, never a part of it. All are made with the process's umask:
under 0002 other members of its group can write them.
"""

import contextlib
import glob
import gzip
import io
import json
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, TextIO

from steerlm.errors import InputError

PARTIAL_SUFFIX = ".partial"
ABANDONED_SECONDS = 3600.0
"""A partial file of another machine counts as abandoned when it was not written for so long."""
_WRITER = re.compile(r"@(?P<machine>[^@]+)@(?P<pid>\d+)@[0-9a-f]+$")


def open_text(path: str | Path) -> TextIO:
    """Open a text file or its `.gz` form for reading: UTF-8, newlines untranslated.

    Raises:
        InputError: If the file does not exist or is a folder.
    """
    try:
        raw = gzip.open(path, "rb") if str(path).endswith(".gz") else open(path, "rb")  # noqa: SIM115
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder, a file was expected") from None
    return io.TextIOWrapper(raw, encoding="utf-8", newline="\n")


def partial_path(path: Path, writer: str = "") -> Path:
    """Return the hidden name of `path` while it is incomplete.

    `writer` names who writes it, where several may write at the same time; see `unique_writer`. Without it the name is
    always the same, so that a later process can continue the file.
    """
    return path.with_name(f".{path.name}.{writer}{PARTIAL_SUFFIX}" if writer else f".{path.name}{PARTIAL_SUFFIX}")


def unique_writer() -> str:
    """Return a name that no other writer of any machine has: processes of two containers often have equal numbers."""
    return f"@{_machine()}@{os.getpid()}@{secrets.token_hex(4)}"


def remove_partial_files(folder: Path) -> None:
    """Remove the partial files that dead processes have left anywhere below a folder.

    Those without a writer's name belong to whoever has the folder's lock, which is the caller. Others may be written at
    this moment by another pod, whose processes cannot be seen from here: they stay for an hour after the last write.
    """
    for path in folder.rglob(f".*{PARTIAL_SUFFIX}"):
        if path.is_file() and _abandoned(path):
            path.unlink(missing_ok=True)


def _abandoned(partial: Path) -> bool:
    """Whether the writer of a partial file or folder is dead."""
    writer = _WRITER.search(partial.name.removesuffix(PARTIAL_SUFFIX))
    if writer is None:
        return True
    if writer["machine"] == _machine() and not Path("/proc", writer["pid"]).exists():
        return True
    # The clocks of this machine and of a file server may differ, by far less than this.
    return time.time() - _newest(partial) > ABANDONED_SECONDS


def _machine() -> str:
    """Return the host's name and the PID namespace: pods on a node's network have the node's name."""
    try:
        return f"{os.uname().nodename}-{Path('/proc/self/ns/pid').stat().st_ino:x}"
    except OSError:
        return os.uname().nodename


def _newest(path: Path) -> float:
    """Return when a file, or any file in a folder, was written last; now if it disappears meanwhile."""
    try:
        return max(one.stat().st_mtime for one in [path, *path.rglob("*")])
    except FileNotFoundError:
        return time.time()


@contextlib.contextmanager
def atomic_path(path: Path, writer: str | None = None) -> Iterator[Path]:
    """Yield a path to write. The file there replaces `path` when the block ends, and is removed if it raises.

    Args:
        path: The target; its folder must exist.
        writer: See `partial_path`; a unique one by default.
    """
    partial = partial_path(path, unique_writer() if writer is None else writer)
    partial.unlink(missing_ok=True)
    try:
        yield partial
        _apply_umask(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)  # after success too: renaming a hard link to the same file leaves both names


def _apply_umask(path: Path) -> None:
    """Let those read and write a new file whom the umask lets: safetensors makes files for their owner alone.

    A hard link is left alone, because its other name may be a file of the user's.
    """
    found = path.stat()
    if found.st_nlink > 1 or not stat.S_ISREG(found.st_mode):
        return
    with contextlib.suppress(OSError):  # os.umask cannot read the mask without changing it for every thread
        mask = re.search(r"^Umask:\s*(\d+)", Path("/proc/self/status").read_text(encoding="utf-8"), re.MULTILINE)
        wanted = stat.S_IMODE(found.st_mode) | (0o666 & ~int(mask[1], 8) if mask else 0)
        if wanted != stat.S_IMODE(found.st_mode):
            path.chmod(wanted)


@contextlib.contextmanager
def atomic_writers(*paths: str | Path) -> Iterator[list[TextIO]]:
    """Open text files that replace `paths` when the block ends: all of them, or none and no trace if it raises."""
    targets = [Path(path) for path in paths]
    partials = [partial_path(path, unique_writer()) for path in targets]
    try:
        with contextlib.ExitStack() as stack:
            files: list[TextIO] = []
            for path, partial in zip(targets, partials, strict=True):
                path.parent.mkdir(parents=True, exist_ok=True)
                files.append(stack.enter_context(open(partial, "w", encoding="utf-8", newline="\n")))
            yield files
            for file in files:
                sync(file)
        for path, partial in zip(targets, partials, strict=True):
            partial.replace(path)
    finally:
        for partial in partials:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_writer(path: str | Path) -> Iterator[TextIO]:
    """Open a text file that replaces `path` when the block ends, and leaves no trace if it raises."""
    with atomic_writers(path) as (file,):
        yield file


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the name `path` when the block ends, and is removed if it raises.

    What dead processes have left of it is removed first, as by `remove_partial_files`.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.*{PARTIAL_SUFFIX}"):
        if _abandoned(left):
            shutil.rmtree(left, ignore_errors=True)
    partial = partial_path(path, unique_writer())
    partial.mkdir()
    try:
        yield partial
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_json(path: str | Path, value: Any) -> None:
    """Write an indented JSON file atomically."""
    with atomic_writer(path) as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")


def sync(file: IO[Any]) -> None:
    """Write a file's buffers to the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Write a folder's entries to the disk, so that a rename in it survives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cache_folder() -> Path:
    """Return the folder of caches: STEERLM_CACHE, or `steerlm` in the user's cache folder.

    A launcher on a cluster sets the variable to a folder in its workspace: what it caches, the local copy of a store
    above all, is read by other pods and by its successor.
    """
    if folder := os.environ.get("STEERLM_CACHE"):
        return Path(folder).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "steerlm"
