# SPDX-License-Identifier: Apache-2.0
"""A local copy of a collection of objects, kept up to date by a watch: list, then watch, then list again if need be.

A watch ends by itself now and then, and with 410 Gone when its version is too old; the API server restarts; tokens
expire. Each of these means to list again after a pause. Reading the copy costs no request.
"""

import logging
import threading
from typing import Any

from steerlm.jobs.kubernetes.client import REFUSAL_SECONDS, Cluster, ClusterError, Json, Patience

WATCH_SECONDS = 60
PAUSE_SECONDS = (0.2, 5.0)
"""First and longest pause after a failure; it doubles."""
log = logging.getLogger(__name__)


class Informer:
    """The objects at a path that a label selector selects.

    Args:
        cluster: The connection.
        path: A collection, such as `/api/v1/namespaces/steerlm/pods`.
        selector: A label selector; empty: all objects.
    """

    def __init__(self, cluster: Cluster, path: str, selector: str = "") -> None:
        # An outage is waited for here, by the pauses between lists.
        self._cluster, self._path = cluster.with_patience(Patience(refusal=REFUSAL_SECONDS)), path
        self._query = {"labelSelector": selector} if selector else {}
        self._objects: dict[str, Json] = {}
        self._listed, self._stopped = threading.Event(), threading.Event()
        self._changed = threading.Condition()
        self._error: ClusterError | None = None
        self._thread = threading.Thread(target=self._run, name=f"watch {path}", daemon=True)
        self._thread.start()

    def objects(self, timeout: float = 60.0) -> list[Json]:
        """Return the objects as last seen; the first call waits for the first list.

        Raises:
            ClusterError: The first list failed for a reason that does not pass, or for longer than `timeout` seconds.
        """
        if not self._listed.wait(0):
            with self._changed:
                self._changed.wait_for(lambda: self._listed.is_set() or self._final(), timeout)
            if not self._listed.is_set():
                raise self._error or ClusterError(f"no answer from the API server in {timeout:g} seconds")
        with self._changed:
            return list(self._objects.values())

    def wait(self, seconds: float) -> None:
        """Wait until an object changes, at most so long."""
        with self._changed:
            self._changed.wait(seconds)

    def stop(self) -> None:
        """End the watch; its thread ends with the open request."""
        self._stopped.set()

    def _final(self) -> bool:
        return self._error is not None and not self._error.transient

    def _run(self) -> None:
        pause = PAUSE_SECONDS[0]
        while not self._stopped.is_set():
            try:
                self._list_and_watch()
                pause = PAUSE_SECONDS[0]
            except ClusterError as error:
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                if error.status != 410:
                    log.log(logging.DEBUG if error.transient else logging.WARNING, "%s; trying again", error)
                    self._stopped.wait(pause)
                    pause = min(2 * pause, PAUSE_SECONDS[1])
            except Exception:  # a thread that ends in silence would leave an old copy that looks new
                log.exception("watch of %s; trying again", self._path)
                self._stopped.wait(PAUSE_SECONDS[1])

    def _list_and_watch(self) -> None:
        listed = self._cluster.get(self._path, **self._query)
        version = str(listed["metadata"]["resourceVersion"])
        self._replace({_uid(one): one for one in listed["items"]})
        while not self._stopped.is_set():
            for kind, one in self._cluster.watch(self._path, version, WATCH_SECONDS, **self._query):
                version = str(one["metadata"]["resourceVersion"])
                if kind != "BOOKMARK":
                    self._apply(kind, one)
                if self._stopped.is_set():
                    return

    def _replace(self, objects: dict[str, Json]) -> None:
        with self._changed:
            self._objects = objects
            self._error = None
            self._listed.set()
            self._changed.notify_all()

    def _apply(self, kind: str, one: Json) -> None:
        with self._changed:
            if kind == "DELETED":
                self._objects.pop(_uid(one), None)
            else:
                self._objects[_uid(one)] = one
            self._changed.notify_all()


def _uid(one: dict[str, Any]) -> str:
    return str(one["metadata"]["uid"])
