# SPDX-License-Identifier: Apache-2.0
"""The exclusive lock, with `flock` and on file systems that have none: contention, dead owners, other machines."""

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from steerlm import locks
from steerlm.errors import StorageError
from steerlm.locks import LockHeldError, hold

PROCESS = """
import errno, fcntl, os, sys, time
from pathlib import Path
from steerlm.locks import hold

folder, missing, until_signaled = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "True"
real = fcntl.flock

def flock(file, operation):
    if missing == "everywhere":
        raise OSError(errno.ENOSYS, "Function not implemented")
    real(file, operation)

fcntl.flock = flock
with hold(folder / "lock", lambda holder: print("waits for", holder, flush=True)):
    with open(folder / "journal", "a") as journal:
        journal.write(f"in {os.getpid()}\\n")
        journal.flush()
        print("holds", flush=True)
        sys.stdin.readline() if until_signaled else time.sleep(0.02)
        journal.write(f"out {os.getpid()}\\n")
"""


def start(folder: Path, missing: str, until_signaled: bool = False) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROCESS, str(folder), missing, str(until_signaled)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline()


def check_one_at_a_time(folder: Path, entries: int) -> None:
    lines = (folder / "journal").read_text().split()
    pairs = list(zip(lines[0::2], lines[1::2], strict=True))
    assert len(pairs) == 2 * entries
    for (word, pid), (after, same) in zip(pairs[0::2], pairs[1::2], strict=True):
        assert (word, after) == ("in", "out") and pid == same


@pytest.mark.parametrize("missing", ["nowhere", "everywhere"])
def test_processes_take_turns(missing: str, tmp_path: Path) -> None:
    first = start(tmp_path, missing, until_signaled=True)
    assert line(first) == "holds\n"
    others = [start(tmp_path, missing) for _ in range(3)]
    assert all(line(process).startswith(f"waits for process {first.pid}") for process in others)
    first.communicate("end\n", timeout=20)
    for process in others:
        assert process.communicate(timeout=20) == ("holds\n", "")
    check_one_at_a_time(tmp_path, 4)
    assert not (tmp_path / "lock.owner").exists()


@pytest.mark.parametrize("missing", ["nowhere", "everywhere"])
def test_the_lock_of_a_dead_process_is_taken_over_by_one(missing: str, tmp_path: Path) -> None:
    holder = start(tmp_path, missing, until_signaled=True)
    assert line(holder) == "holds\n"
    assert (tmp_path / "lock.owner").exists() == (missing == "everywhere")
    waiting = [start(tmp_path, missing) for _ in range(2)]
    assert all(line(process).startswith(f"waits for process {holder.pid}") for process in waiting)
    holder.send_signal(signal.SIGKILL)
    holder.communicate(timeout=20)
    outputs = [process.communicate(timeout=20) for process in waiting]
    assert [out for out, _ in outputs] == ["holds\n"] * 2
    assert ("dead; taking it over" in "".join(err for _, err in outputs)) == (missing == "everywhere")
    (tmp_path / "journal").write_text((tmp_path / "journal").read_text().replace(f"in {holder.pid}\n", ""))
    check_one_at_a_time(tmp_path, 2)
    assert not (tmp_path / "lock.owner").exists()


@pytest.fixture
def without_flock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on a file system without `flock`, and times that a test can wait for."""

    def flock(file: Any, operation: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(locks, "LEFT_BEHIND_SECONDS", 0.4)
    monkeypatch.setattr(locks, "POLL_SECONDS", 0.02)
    return tmp_path


def of_another_machine(path: Path) -> Path:
    owner = path.with_name("lock.owner")
    owner.write_text(json.dumps({"machine": "other", "host": "node7", "pid": 12, "started": "1"}))
    return owner


def test_a_lock_that_another_machine_left_behind_is_named(without_flock: Path) -> None:
    owner = of_another_machine(without_flock / "lock")
    waits: list[str] = []
    message = r"lock\.owner: process 12 on node7 .* if it is no longer running, delete this"
    with pytest.raises(StorageError, match=message), hold(without_flock / "lock", waits.append):
        pass
    assert waits == ["process 12 on node7"] and owner.exists()
    owner.unlink()
    with hold(without_flock / "lock"):
        assert owner.exists()
    assert not owner.exists()


def test_a_lock_that_another_machine_still_touches_is_waited_for(without_flock: Path) -> None:
    owner = of_another_machine(without_flock / "lock")
    began = time.monotonic()

    def work() -> None:
        while time.monotonic() - began < 3 * locks.LEFT_BEHIND_SECONDS:
            os.utime(owner)
            time.sleep(0.05)
        owner.unlink()

    machine = threading.Thread(target=work)
    machine.start()
    with hold(without_flock / "lock"):
        assert time.monotonic() - began >= 3 * locks.LEFT_BEHIND_SECONDS
    machine.join()


def test_the_owner_touches_its_file(without_flock: Path) -> None:
    with hold(without_flock / "lock"):
        owner = without_flock / "lock.owner"
        before = owner.stat().st_mtime_ns
        time.sleep(0.2)
        assert owner.stat().st_mtime_ns > before


@pytest.mark.parametrize("supported", [True, False])
def test_without_waiting_the_error_names_the_holder(
    supported: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if not supported:
        request.getfixturevalue("without_flock")
    with hold(tmp_path / "lock"):
        for _ in range(2):
            message = rf"lock: process {os.getpid()}.* holds it"
            with pytest.raises(LockHeldError, match=message) as caught, hold(tmp_path / "lock", wait=False):
                pass
            assert f"process {os.getpid()}" in caught.value.holder
    with hold(tmp_path / "lock", wait=False):
        pass


def test_another_failure_of_flock_is_not_taken_for_its_absence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(file: Any, operation: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="Input/output error"), hold(tmp_path / "lock"):
        pass


def test_who_waited_for_a_lock_that_was_deleted_does_not_hold_it(tmp_path: Path) -> None:
    """The holder deletes the folder, as `store gc` does; later processes lock another file."""
    folder = tmp_path / "key"
    folder.mkdir()
    with hold(folder / "lock") as held:
        waiting = start(folder, "nowhere", until_signaled=True)
        assert line(waiting).startswith("waits for process")
        shutil.rmtree(folder)
        with pytest.raises(StorageError, match="lock was deleted while this process held it"):
            held.check()
    assert line(waiting) == "holds\n"
    with pytest.raises(LockHeldError), hold(folder / "lock", wait=False):
        pass
    waiting.communicate("end\n", timeout=20)


@pytest.mark.parametrize("supported", [True, False])
def test_a_lock_that_is_held_is_confirmed(supported: bool, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if not supported:
        request.getfixturevalue("without_flock")
    with hold(tmp_path / "lock") as held:
        held.check()
        held.retire()
    assert list(tmp_path.iterdir()) == []


def test_an_owner_file_that_another_machine_replaced_is_a_lost_lock(without_flock: Path) -> None:
    with hold(without_flock / "lock") as held:
        of_another_machine(without_flock / "lock")
        with pytest.raises(StorageError, match="lock was taken over by process 12 on node7"):
            held.check()
    assert (without_flock / "lock.owner").exists(), "it is the other machine's"
