# SPDX-License-Identifier: Apache-2.0
"""Locks by Leases: turns, dead holders, an API server that is away or loses answers, and what a lost lock prevents."""

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from steerlm.annotation.journal import JournaledOutput, JournalEntry
from steerlm.artifact import Store
from steerlm.errors import ConfigError, InputError, StorageError
from steerlm.jobs.kubernetes import lease
from steerlm.jobs.kubernetes.lease import lease_name
from steerlm.locks import LockHeldError, hold
from tests.jobs.kubernetes.fake_leases import FakeLeases, fake_leases


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeLeases]:
    """The Leases of a server, a workspace in `tmp_path`, and times that a test can wait for."""
    for name, value in {"DURATION_SECONDS": 1, "RENEW_SECONDS": 0.1, "FORBIDDEN_SECONDS": 0.1}.items():
        monkeypatch.setattr(lease, name, value)
    monkeypatch.setattr(lease, "CONFIRMED_SECONDS", 0.0)
    with fake_leases() as fake:
        # The client reads KUBECONFIG when it is imported.
        location = "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION"
        monkeypatch.setattr(location, str(fake.kubeconfig(tmp_path / "kubeconfig")))
        monkeypatch.setenv("STEERLM_LOCKS", "lease")
        monkeypatch.setenv("STEERLM_NAMESPACE", "steerlm")
        monkeypatch.setenv("STEERLM_WORKSPACE", str(tmp_path))
        yield fake


def eventually(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


@contextlib.contextmanager
def waiting(path: Path) -> Iterator[list[str]]:
    """Another process that wants the lock, here a thread: what it was told, then its own entry `holds`."""
    told: list[str] = []

    def wait() -> None:
        with hold(path, told.append):
            told.append("holds")

    thread = threading.Thread(target=wait)
    thread.start()
    yield told
    thread.join(20)
    assert told[-1:] == ["holds"]


def of_another_pod(server: FakeLeases, path: Path, renewed: str = "then", number: int = 5) -> None:
    server.put(
        lease_name(path),
        holderIdentity="launcher-7_12_ab",
        leaseTransitions=number,
        renewTime=renewed,
        leaseDurationSeconds=1,
    )


def test_holders_take_turns_and_are_counted(server: FakeLeases, tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with contextlib.ExitStack() as others, hold(path) as held:
        first = server.only()
        told = others.enter_context(waiting(path))
        time.sleep(1.5)  # longer than the duration, so the holder must have renewed it
        assert told == [f"process {os.getpid()} on {os.uname().nodename}"]
        held.check()
        assert server.only()["renewTime"] > first["renewTime"]
        assert server.only()["leaseTransitions"] == first["leaseTransitions"] == 1
    assert server.only()["leaseTransitions"] == 2
    assert "holderIdentity" not in server.only(), "released"


def test_a_holder_that_no_longer_renews_is_replaced_after_the_duration(server: FakeLeases, tmp_path: Path) -> None:
    path, told = tmp_path / "lock", list[str]()
    of_another_pod(server, path, number=5)
    began = time.monotonic()
    with hold(path, told.append):
        assert time.monotonic() - began > 1
        assert server.only()["leaseTransitions"] == 6
    assert told == ["process 12 on launcher-7"]


def test_times_of_another_machine_mean_nothing(server: FakeLeases, tmp_path: Path) -> None:
    """A holder whose clock is a year behind keeps its lock as long as it renews."""
    path = tmp_path / "lock"
    of_another_pod(server, path, "2020-01-01T00:00:00.000000Z")
    with waiting(path) as told:
        for second in range(1, 16):
            time.sleep(0.1)
            of_another_pod(server, path, f"2020-01-01T00:00:{second:02}.000000Z")
            assert told in ([], ["process 12 on launcher-7"])


@pytest.mark.parametrize("alive", [True, False])
def test_without_waiting_only_a_live_holder_refuses(alive: bool, server: FakeLeases, tmp_path: Path) -> None:
    path = tmp_path / "lock"
    if alive:
        with hold(path), pytest.raises(LockHeldError, match=f"lock: process {os.getpid()} on "), hold(path, wait=False):
            pass
    else:
        of_another_pod(server, path)
        with hold(path, wait=False):
            assert server.only()["leaseTransitions"] == 6


@pytest.mark.parametrize("status", [401, 429, 503])
def test_a_server_that_is_away_takes_the_lock_from_nobody(status: int, server: FakeLeases, tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with contextlib.ExitStack() as others, hold(path) as held:
        told = others.enter_context(waiting(path))
        eventually(lambda: bool(told))
        server.status = status
        time.sleep(0.7)
        server.status = 0
        held.check()
        assert "holds" not in told


def test_an_outage_longer_than_the_duration_is_no_sign_of_a_dead_holder(
    server: FakeLeases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock"
    of_another_pod(server, path)
    before = lease.DURATION_SECONDS
    monkeypatch.setattr(lease, "DURATION_SECONDS", 4)  # how long requests are repeated
    with waiting(path) as told:
        eventually(lambda: bool(told))
        server.status = 503
        time.sleep(2.5 * before)
        assert server.only()["leaseTransitions"] == 5
        server.status = 0
        time.sleep(0.5 * before)
        assert told == ["process 12 on launcher-7"], "the holder has its whole duration to renew"


@pytest.mark.parametrize("held_before", [False, True])
def test_an_answer_that_got_lost_is_found_out(held_before: bool, server: FakeLeases, tmp_path: Path) -> None:
    path = tmp_path / "lock"
    if held_before:
        with hold(path):
            pass
    server.dropped = 1
    with hold(path) as held:
        assert server.dropped == 0
        assert server.only()["leaseTransitions"] == 1 + held_before
        server.dropped = 1
        held.check()
        eventually(lambda: server.dropped == 0)
        held.check()


def test_a_change_of_the_lease_by_hand_is_no_loss(server: FakeLeases, tmp_path: Path) -> None:
    with hold(tmp_path / "lock") as held:
        (entry,) = server.leases.values()
        with server.mutex:
            server.store({**entry, "metadata": {**entry["metadata"], "labels": {"team": "a"}}})
        held.check()
        held.check()


def test_the_check_of_a_lost_lock_names_who_has_it(server: FakeLeases, tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with hold(path) as held:
        of_another_pod(server, path)
        message = r"lock was taken over by process 12 on launcher-7 \(holder 5, this process was 1\)"
        for _ in range(2):
            with pytest.raises(StorageError, match=message):
                held.check()
    assert server.only()["holderIdentity"] == "launcher-7_12_ab", "a lost lock is not released"
    server.leases.clear()
    with hold(path) as held:
        server.leases.clear()
        with pytest.raises(StorageError, match="the lock was deleted"):
            held.check()


def test_a_check_without_a_server_fails_after_the_duration(server: FakeLeases, tmp_path: Path) -> None:
    with hold(tmp_path / "lock") as held:
        server.status = 503
        with pytest.raises(StorageError, match=r"lock: its lock, a Lease, cannot be used: .*refused"):
            held.check()


def test_a_missing_right_is_told(server: FakeLeases, tmp_path: Path) -> None:
    server.status = 403
    with pytest.raises(StorageError, match="doctor"), hold(tmp_path / "lock"):
        pass


def test_a_refusal_at_the_end_of_an_outage_is_borne_as_long_as_one_without(
    server: FakeLeases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that has just started refuses everything until it has read its roles."""
    monkeypatch.setattr(lease, "DURATION_SECONDS", 30)
    monkeypatch.setattr(lease, "FORBIDDEN_SECONDS", 1.0)
    server.status = 503
    timers = [threading.Timer(seconds, setattr, (server, "status", code)) for seconds, code in ((1.0, 403), (2.0, 0))]
    for timer in timers:
        timer.start()
    with hold(tmp_path / "lock"):
        assert server.status == 0
    for timer in timers:
        timer.join()


def test_a_lock_whose_folder_was_deleted_leaves_no_lease(server: FakeLeases, tmp_path: Path) -> None:
    with hold(tmp_path / "lock") as held:
        held.retire()
    assert server.leases == {}


def test_the_lease_is_named_by_the_path_in_the_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = set()
    for mount in ("workspace", "mnt/other"):
        (tmp_path / mount).mkdir(parents=True)
        monkeypatch.setenv("STEERLM_WORKSPACE", str(tmp_path / mount))
        names.add(lease_name(tmp_path / mount / "store" / "stage" / "key" / ".lock"))
        names.add(lease_name(tmp_path / mount / "store" / ".." / "store" / "stage" / "key" / ".lock"))
        assert lease_name(tmp_path / mount / "store" / "stage" / "other" / ".lock") not in names
    (name,) = names
    assert re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])", name)


def test_settings_that_cannot_be_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEERLM_LOCKS", "etcd")
    with pytest.raises(ConfigError, match="STEERLM_LOCKS=etcd: no such service; lease was expected"):
        hold(tmp_path / "lock").__enter__()
    monkeypatch.setenv("STEERLM_LOCKS", "lease")
    monkeypatch.delenv("STEERLM_NAMESPACE", raising=False)
    with pytest.raises(ConfigError, match="STEERLM_NAMESPACE is not set"):
        hold(tmp_path / "lock").__enter__()


def take(server: FakeLeases) -> None:
    """Make every lock that is held now another pod's."""
    for name, entry in list(server.leases.items()):
        if entry["spec"].get("holderIdentity"):
            server.put(name, holderIdentity="launcher-8_1_cd", leaseTransitions=9, leaseDurationSeconds=1)


def test_a_launcher_that_lost_its_lock_completes_nothing(server: FakeLeases, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with store.lock("stage", "key", print) as held:
        store.begin("stage", "key", "data", {})
        (store.folder("stage", "key") / "data" / "a.txt").write_text("a")
        take(server)
        with pytest.raises(StorageError, match="taken over by process 1 on launcher-8"):
            store.finish("stage", "key", "data", None, {}, held=held)
    assert store.find("stage", "key") is None


def test_a_journal_that_lost_its_lock_writes_nothing(server: FakeLeases, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    entry = JournalEntry(lines=1, sha256="", size=0, method={}, counts={})
    with JournaledOutput(path) as out:
        out.open()
        with pytest.raises(InputError, match="is being written by process"):
            JournaledOutput(path)
        out.commit("one\n", entry)
        take(server)
        with pytest.raises(StorageError, match="taken over"):
            out.commit("two\n", entry)
        with pytest.raises(StorageError, match="taken over"):
            out.finish(entry)
    assert not path.exists()
    assert path.with_name("out.jsonl.partial").read_text() == "one\n"
