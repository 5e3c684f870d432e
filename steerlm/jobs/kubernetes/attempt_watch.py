# SPDX-License-Identifier: Apache-2.0
"""An attempt of a job as the cluster shows it: watches of its object, its pods and the nodes, made into a `JobStatus`.

Whether an attempt goes on is decided here for all kinds of objects: operators differ in when they notice a lost pod or
node, and some restart a pod alone.
"""

import contextlib
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path

from steerlm.attempt import STOP, reported
from steerlm.jobs.backend import JobStatus
from steerlm.jobs.kubernetes import pods
from steerlm.jobs.kubernetes.attempts import Attempt, attempt_folder
from steerlm.jobs.kubernetes.client import Cluster, ClusterError, Json
from steerlm.jobs.kubernetes.informer import Informer
from steerlm.jobs.kubernetes.kinds import Kind
from steerlm.jobs.kubernetes.labels import selector

CREATION_SECONDS = 10
"""How long a watch may be behind the creation of the object."""
BEHIND_SECONDS = 3
"""How long the watch of the pods may be behind that of the object, which has failed by one of them."""
QUEUE_SECONDS = 5
"""How often the queue is asked for its message."""
TAIL_LINES = 20
DELETED = "the pod {} was deleted; pods are not restarted alone"
CONNECTING = "all pods run; its processes connect"
log = logging.getLogger(__name__)


class AttemptWatch:
    """Follows one attempt.

    Attributes:
        number: The attempt's number.
        suspects: Nodes that are to blame for its end.
        heartbeat: When its annotation was renewed last, by the monotonic clock.
    """

    def __init__(
        self,
        cluster: Cluster,
        kind: Kind,
        jobs_path: str,
        core: str,
        name: str,
        folder: Path,
        attempt: Attempt,
    ) -> None:
        self.number, self.suspects, self.heartbeat = attempt.number, list[str](), 0.0
        self._cluster, self._kind, self._core = cluster, kind, core
        self._place = attempt_folder(folder, attempt.number)
        self._nodes_expected = attempt.nodes
        selected = selector(name, attempt.number)
        self._objects = Informer(cluster, jobs_path, selected)
        self._pods = Informer(cluster, f"{core}/pods", selected)
        self._nodes = Informer(cluster, "/api/v1/nodes")
        self._uids: dict[str, str] = {}
        self._left: Json = {}
        self._created = time.monotonic()
        self._unexplained: float | None = None
        self._workload: tuple[float, str] = (0.0, "")

    def stop(self) -> None:
        """End the watches."""
        for informer in (self._objects, self._pods, self._nodes):
            informer.stop()

    def pods_on_lost_nodes(self) -> list[Json]:
        """Return the pods whose node is gone or does not respond: nobody there ends them."""
        all_pods = self._pods.objects()
        lost = pods.lost_nodes(all_pods, self._by_name())
        return [pod for pod in all_pods if pod["spec"].get("nodeName") in lost]

    def status(self) -> JobStatus:
        """Return the attempt's status as the cluster shows it now."""
        found = self._objects.objects()
        if not found:
            # A watch may be a little behind the creation.
            if time.monotonic() - self._created < CREATION_SECONDS:
                return JobStatus("queued", "its object is not seen yet")
            return JobStatus("failed", "its object was deleted")
        object_, all_pods = found[0], self._pods.objects()
        state = self._kind.state(object_)
        expected = self._nodes_expected
        if state.phase == "succeeded":
            return JobStatus("succeeded")
        if state.phase == "failed":
            return self._failed(all_pods, state.message)
        if state.phase == "queued":
            self._uids, self._left = {}, reported(self._place)
            return JobStatus("queued", self._queue_message(object_))
        if lost := pods.lost_nodes(all_pods, self._by_name()):
            self.suspects = lost
            return JobStatus("failed", f"lost the node{'s' if len(lost) > 1 else ''} {', '.join(lost)}")
        if failed := pods.failures(all_pods):
            return self._failed(all_pods, failed[0].message)
        if gone := self._replaced(all_pods, expected):
            return JobStatus("failed", DELETED.format(gone))
        if reason := pods.never_starts(all_pods):
            return JobStatus("failed", reason, final=True)
        beat = reported(self._place)
        if beat == self._left:  # of pods that their queue has ended; the later ones have not begun
            beat = {}
        if not beat and (not pods.running(all_pods, expected) or state.phase == "created"):
            return JobStatus("starting", pods.waiting(all_pods, expected) or CONNECTING)
        if not beat:
            return JobStatus("starting", CONNECTING)
        return JobStatus("running", progress=json.dumps(beat))

    def _replaced(self, all_pods: list[Json], expected: int) -> str:
        """Return a pod that was there with the others and is gone, or is another one of the same name."""
        now = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in all_pods}
        deleted = [pod["metadata"]["name"] for pod in all_pods if pod["metadata"].get("deletionTimestamp")]
        if len(self._uids) < expected:
            self._uids = now
        changed = [name for name, uid in self._uids.items() if now.get(name) != uid]
        return next(iter([*changed, *(deleted if len(self._uids) >= expected else [])]), "")

    def _failed(self, all_pods: list[Json], message: str) -> JobStatus:
        causes = pods.failures(all_pods)
        stop_asked = (self._place / STOP).exists()
        if not causes or (causes[0].rank == pods.Rank.STOPPED and not stop_asked):
            # Its controller has seen what befell a pod, and ends the others, which save and stop as after a cancel.
            if not stop_asked and (gone := self._replaced(all_pods, self._nodes_expected)):
                return JobStatus("failed", DELETED.format(gone))
            self._unexplained = self._unexplained or time.monotonic()
            if time.monotonic() - self._unexplained < BEHIND_SECONDS:
                return JobStatus("running", progress=json.dumps(reported(self._place)))
        if not causes:
            return JobStatus("failed", message or "failed without a message", tail=self._pod_log(all_pods))
        cause = causes[0]
        self.suspects = [cause.node] if cause.node else []
        if cause.rank == pods.Rank.STOPPED:
            return JobStatus("interrupted", pods.summary(causes))
        return JobStatus(
            "failed",
            pods.summary(causes),
            final=cause.rank == pods.Rank.PERMANENT,
            exit_code=2 if cause.exit_code == 2 else 1,
            tail=self._tail(cause, all_pods),
        )

    def _tail(self, cause: pods.PodFailure, all_pods: list[Json]) -> list[str]:
        """Return the last lines of the process that failed first; of its pod if it has written none."""
        path = self._place / f"rank-{cause.process}.log"
        if cause.process is not None and path.exists():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
            return [f"rank {cause.process}: {line}" for line in lines] if cause.process else []
        return self._pod_log([pod for pod in all_pods if pod["metadata"]["name"] == cause.pod])

    def _pod_log(self, some_pods: list[Json]) -> list[str]:
        for pod in some_pods:
            name = pod["metadata"]["name"]
            with contextlib.suppress(ClusterError):
                text = self._cluster.text(f"{self._core}/pods/{name}/log", tailLines=TAIL_LINES)
                if text.strip():
                    return [f"{name}: {line}" for line in text.splitlines()]
        return []

    def _queue_message(self, object_: Json) -> str:
        """Return what the queue says of the job; asked every few seconds only."""
        asked, message = self._workload
        if time.monotonic() - asked > QUEUE_SECONDS:
            path = f"/apis/kueue.x-k8s.io/v1beta2/namespaces/{object_['metadata']['namespace']}/workloads"
            with contextlib.suppress(ClusterError):
                query = f"kueue.x-k8s.io/job-uid={object_['metadata']['uid']}"
                items = self._cluster.get(path, labelSelector=query)["items"]
                message = pods.queue_message(items[0]) if items else "suspended; no queue has taken it up"
            self._workload = (time.monotonic(), message)
        return message

    def _by_name(self) -> Mapping[str, Json]:
        return {node["metadata"]["name"]: node for node in self._nodes.objects()}
