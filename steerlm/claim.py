# SPDX-License-Identifier: Apache-2.0
"""The right to upload to a prefix of an object store, for machines that share nothing else.

It is an object that names its holder, written under a condition (`If-None-Match`, `If-Match`), so that one of several
gets it. The holder replaces it regularly. Others take it over when they have not seen it change for two minutes by
their own clock: those of two machines may differ.
"""

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator

from steerlm.errors import StorageError
from steerlm.files import unique_writer
from steerlm.storage import S3Prefix

CLAIM = "CLAIM"
RENEW_SECONDS = 10.0
STALE_SECONDS = 120.0
POLL_SECONDS = 2.0
log = logging.getLogger(__name__)


class Claim:
    """The claim of a prefix that this process holds."""

    def __init__(self, prefix: S3Prefix) -> None:
        self._prefix, self._holder, self._changes = prefix, unique_writer(), 0
        self._version: str | None = None

    def get(self, version: str | None) -> bool:
        """Write the claim if its object has `version` (None: does not exist); return whether this process has it."""
        self._changes += 1  # every content is another one, and so every version
        content = json.dumps({"holder": self._holder, "renewed": self._changes}).encode()
        self._version = self._prefix.put_if(CLAIM, content, version)
        return self._version is not None

    def renew(self) -> bool:
        """Return whether this process still has the claim, after renewing it."""
        return self._version is not None and self.get(self._version)

    def release(self) -> None:
        """Remove the claim, if this process has it."""
        if self._version is not None:
            self._prefix.discard(CLAIM)


@contextlib.contextmanager
def claimed(prefix: S3Prefix, done: Callable[[], bool]) -> Iterator[Callable[[], None] | None]:
    """Hold the claim of a prefix during the block, unless there is nothing left to do.

    Args:
        prefix: Where to upload.
        done: Asked before each attempt to get the claim.

    Yields:
        A function that raises `StorageError` if another machine has taken the claim over; None if `done`.
    """
    claim = Claim(prefix)
    if not _acquire(claim, prefix, done):
        yield None
        return
    released, mutex = threading.Event(), threading.Lock()

    def check() -> None:
        with mutex:
            if not claim.renew():
                raise StorageError(f"{prefix.uri()}: another machine has taken over the upload; run again after it")

    def renew() -> None:
        while not released.wait(RENEW_SECONDS):
            try:
                check()
            except StorageError as error:
                log.warning("%s", error)

    thread = threading.Thread(target=renew, name="claim", daemon=True)
    thread.start()
    try:
        yield check
    finally:
        released.set()
        thread.join()
        claim.release()


def _acquire(claim: Claim, prefix: S3Prefix, done: Callable[[], bool]) -> bool:
    seen, since, reported = None, time.monotonic(), False
    while not done():
        if claim.get(None):
            return True
        version = prefix.version(CLAIM)
        if version != seen:
            seen, since = version, time.monotonic()
        elif time.monotonic() - since > STALE_SECONDS:
            log.warning("%s: the machine that was uploading has stopped; taking over", prefix.uri())
            if claim.get(version):
                return True
        if not reported:
            log.info("%s: another machine is uploading; waiting for it", prefix.uri())
            reported = True
        time.sleep(POLL_SECONDS)
    return False
