# SPDX-License-Identifier: Apache-2.0
"""Locks of the launcher pods of a cluster: a Lease per lock (STEERLM_LOCKS=lease, see `steerlm.locks`).

A Lease (`coordination.k8s.io/v1`) names its holder, pod and process with a random part, and the number of holders so
far. The holder renews it; every change is a compare-and-swap by `resourceVersion`. Others take it over when they have
seen no change for its duration. Only durations on one process's monotonic clock count, as in client-go: `renewTime` is
for people who look, since the clocks of two nodes differ. The time in which the API server does not answer counts for
nobody: without it the holder cannot renew and nobody can take over.

The number grows with each holder (`leaseTransitions`). A holder that was paused or cut off finds another holder or
number when it checks, before it publishes anything. A check is a renewal, so after it nobody else holds the lock for
the Lease's duration.
"""

import contextlib
import datetime
import functools
import hashlib
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

from steerlm.errors import ConfigError, StorageError
from steerlm.jobs.kubernetes.client import REFUSAL_SECONDS, Cluster, ClusterError, Patience, patiently
from steerlm.locks import Held, LockHeldError

NAMESPACE, WORKSPACE = "STEERLM_NAMESPACE", "STEERLM_WORKSPACE"
"""Environment variables: where the Leases are, and the folder to which their names are relative."""
DURATION_SECONDS = 60
"""How long others see no renewal before they take a lock over; requests are repeated for as long."""
RENEW_SECONDS = 10.0
POLL_SECONDS = 1.0
REQUEST_SECONDS = 10.0
CONFIRMED_SECONDS = 1.0
"""A renewal this recent answers a check: a writer of many small blocks checks before each."""
FORBIDDEN_SECONDS = REFUSAL_SECONDS
T = TypeVar("T")
log = logging.getLogger(__name__)


@contextlib.contextmanager
def hold(path: Path, on_wait: Callable[[str], None] | None, *, wait: bool) -> Iterator[Held]:
    """Hold the Lease of `path` during the block; see `steerlm.locks.hold`.

    Without `wait` a lock still takes up to its duration, if its holder is dead: that is how long it takes to find out.

    Raises:
        ConfigError: STEERLM_NAMESPACE is not set.
        LockHeldError: The lock is held by a process that renews it, and `wait` is False.
        StorageError: The API server refused, or did not answer for a Lease's duration.
    """
    namespace = os.environ.get(NAMESPACE)
    if not namespace:
        raise ConfigError(f"{NAMESPACE} is not set; STEERLM_LOCKS=lease needs the namespace of the Leases in it")
    lease = _Lease(Cluster(read_seconds=REQUEST_SECONDS), namespace, path)
    lease.acquire(on_wait, wait)
    with lease.renewing():
        yield lease


def lease_name(path: Path) -> str:
    """Return the name of a path's Lease, equal in all pods wherever they mount the workspace. A DNS-1035 label."""
    resolved, workspace = path.resolve(), Path(os.environ.get(WORKSPACE) or "/").resolve()
    name = resolved.relative_to(workspace) if resolved.is_relative_to(workspace) else resolved
    return f"steerlm-lock-{hashlib.sha256(str(name).encode()).hexdigest()[:40]}"


class _Record(NamedTuple):
    """What a Lease says. `holder` is empty after a release."""

    holder: str
    number: int
    renewed: str
    duration: float

    @classmethod
    def of(cls, lease: dict[str, Any]) -> Self:
        spec = lease.get("spec") or {}
        return cls(
            spec.get("holderIdentity") or "",
            spec.get("leaseTransitions") or 0,
            spec.get("renewTime") or "",
            spec.get("leaseDurationSeconds") or DURATION_SECONDS,
        )

    def __str__(self) -> str:
        host, _, rest = self.holder.partition("_")
        return f"process {rest.partition('_')[0]} on {host}" if rest else host or "nobody"


class _Lease:
    """A Lease that this process holds after `acquire`."""

    def __init__(self, cluster: Cluster, namespace: str, path: Path) -> None:
        self._cluster, self._path, self._name = cluster, path, lease_name(path)
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._url = f"{self._collection}/{self._name}"
        self._identity = f"{socket.gethostname()}_{os.getpid()}_{secrets.token_hex(8)}"
        self._number, self._version, self._confirmed = 0, "", 0.0
        self._lost, self._retired = "", False
        self._mutex = threading.Lock()

    def acquire(self, on_wait: Callable[[str], None] | None, wait: bool) -> None:
        seen: _Record | None = None
        since = last_read = time.monotonic()
        while True:
            lease = self._patiently(lambda: self._cluster.find(self._url))
            now = time.monotonic()
            if lease is None:
                self._patiently(self._create)
                continue
            record = _Record.of(lease)
            if record.holder == self._identity:
                self._adopt(lease, now)
                return
            if record.holder and record != seen:
                if seen is None and on_wait and wait:
                    on_wait(str(record))
                if seen is not None and not wait:  # it has changed, so its holder is alive
                    raise LockHeldError(self._path, str(record))
                seen, since = record, now
            elif now - last_read > DURATION_SECONDS / 4:  # no answer meanwhile: the holder could not renew it either
                since = now
            if not record.holder or now - since > record.duration:
                if record.holder:
                    log.warning("%s: %s, which held this lock, no longer renews it; taking over", self._path, record)
                self._patiently(functools.partial(self._take, lease))
                continue
            last_read = now
            time.sleep(min(POLL_SECONDS, record.duration / 10))

    @contextlib.contextmanager
    def renewing(self) -> Iterator[None]:
        """Renew the Lease during the block, and release it afterwards."""
        released = threading.Event()
        thread = threading.Thread(target=self._keep, args=(released,), name="lease renewal", daemon=True)
        thread.start()
        try:
            yield
        finally:
            released.set()
            thread.join()
            self._release()

    def check(self) -> None:
        with self._mutex:
            if not self._lost and time.monotonic() - self._confirmed > CONFIRMED_SECONDS:
                self._patiently(self._renew)
            if self._lost:
                raise StorageError(f"{self._path}: the lock {self._lost}; run again after it")

    def retire(self) -> None:
        self._retired = True

    def _create(self) -> None:
        metadata = {
            "name": self._name,
            "labels": {"app.kubernetes.io/managed-by": "steerlm"},
            "annotations": {"steerlm.dev/lock": str(self._path)},
        }
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": self._spec(1)}
        with _expecting(409):  # another one was faster
            self._cluster.create(self._collection, body)

    def _take(self, lease: dict[str, Any]) -> None:
        number = _Record.of(lease).number + 1
        with _expecting(404, 409):
            self._cluster.patch(self._url, {"metadata": _version(lease), "spec": self._spec(number)})

    def _spec(self, number: int) -> dict[str, Any]:
        now = _now()
        return {
            "holderIdentity": self._identity,
            "leaseTransitions": number,
            "acquireTime": now,
            "renewTime": now,
            "leaseDurationSeconds": DURATION_SECONDS,
        }

    def _adopt(self, lease: dict[str, Any], at: float) -> None:
        self._version, self._confirmed = lease["metadata"]["resourceVersion"], at
        self._number = _Record.of(lease).number

    def _renew(self) -> None:
        """Renew the Lease, or record who has it now."""
        while not self._lost:
            at = time.monotonic()
            body = {"metadata": {"resourceVersion": self._version}, "spec": {"renewTime": _now()}}
            with _expecting(404, 409):
                self._adopt(self._cluster.patch(self._url, body), at)
                return
            lease = self._cluster.find(self._url)  # changed by another, or by an earlier request of ours
            if lease is None:
                self._lost = "was deleted"
            elif (record := _Record.of(lease)).holder != self._identity or record.number != self._number:
                self._lost = f"was taken over by {record} (holder {record.number}, this process was {self._number})"
            else:
                self._version = lease["metadata"]["resourceVersion"]

    def _keep(self, released: threading.Event) -> None:
        while not released.wait(RENEW_SECONDS):
            with self._mutex:
                try:
                    self._renew()
                except ClusterError as error:
                    log.warning("%s: cannot renew the lock (%s); trying again", self._path, error)
                if self._lost:
                    log.error("%s: the lock %s", self._path, self._lost)
                    return

    def _release(self) -> None:
        if self._lost:
            return
        try:
            if self._retired:
                self._cluster.delete(self._url)
            else:
                body = {"metadata": {"resourceVersion": self._version}, "spec": {"holderIdentity": None}}
                self._cluster.patch(self._url, body)
        except ClusterError as error:  # it expires by itself
            log.warning("%s: cannot release the lock (%s)", self._path, error)

    def _patiently(self, request: Callable[[], T]) -> T:
        """Repeat a request while the API server restarts, is busy or refuses a token that is being renewed."""
        try:
            return patiently(request, Patience(DURATION_SECONDS, FORBIDDEN_SECONDS), f"{self._path}: its lock waits: ")
        except ClusterError as error:
            raise StorageError(f"{self._path}: its lock, a Lease, cannot be used: {error}") from None


@contextlib.contextmanager
def _expecting(*statuses: int) -> Iterator[None]:
    """Pass over refusals that the caller finds out about by reading the Lease."""
    try:
        yield
    except ClusterError as error:
        if error.status not in statuses:
            raise


def _version(lease: dict[str, Any]) -> dict[str, str]:
    return {"resourceVersion": lease["metadata"]["resourceVersion"]}


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
