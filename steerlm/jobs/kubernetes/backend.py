# SPDX-License-Identifier: Apache-2.0
"""The back end that runs a job as an object of a Kubeflow operator: PyTorchJob, MPIJob or TrainJob (`kinds.py`).

An attempt of a job is one object. What the launcher knows of attempts is in the job's folder in the workspace
(`attempts.py`), so that another launcher goes on where one was lost; what the cluster knows is followed by watches.
Pods never restart alone: an attempt in which one is lost has failed, and the next one is a new object.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from steerlm.attempt import CURRENT, STOP, reported
from steerlm.checksums import FileDigest
from steerlm.errors import InputError, SteerLMError
from steerlm.files import atomic_writer, write_json
from steerlm.jobs.backend import Job, JobStatus
from steerlm.jobs.config import JobSettings
from steerlm.jobs.kubernetes import attempts
from steerlm.jobs.kubernetes.attempt_watch import AttemptWatch
from steerlm.jobs.kubernetes.client import LAUNCHER_PATIENCE, Cluster, ClusterError, Json, Patience
from steerlm.jobs.kubernetes.condition import true_conditions
from steerlm.jobs.kubernetes.config import ClusterSettings
from steerlm.jobs.kubernetes.entry_spec import EntrySpec
from steerlm.jobs.kubernetes.images import reference
from steerlm.jobs.kubernetes.kinds import KINDS, Kind
from steerlm.jobs.kubernetes.labels import ATTEMPT, FOLDER, HEARTBEAT, selector
from steerlm.jobs.kubernetes.pod import PodPlan
from steerlm.jobs.kubernetes.visible import wait_until_visible
from steerlm.visibility import limit_seconds

HEARTBEAT_SECONDS = 60
LOOK_SECONDS = 1.0
"""Pause between two looks at the records in the workspace, which is a file system between machines."""
LAUNCHER = "STEERLM_LAUNCHER"
"""Environment variable of a launcher's pod: the uid of its Job, which its successors share, and a new run does not."""
POD = "STEERLM_POD"
"""Environment variable of a launcher's pod: its name."""
log = logging.getLogger(__name__)


class KubernetesBackend:
    """Jobs as objects of an operator.

    Args:
        kind: A key of `KINDS`.
        settings: The profile's section `cluster`.
        jobs: The profile's section `jobs`.
        cluster: The connection; None: the one that `settings` name.
    """

    max_nodes = None

    def __init__(self, kind: str, settings: ClusterSettings, jobs: JobSettings, cluster: Cluster | None = None) -> None:
        self._kind: Kind = KINDS[kind]
        self._settings, self._jobs, self._connection = settings, jobs, cluster
        self._folders: dict[str, Path] = {}
        self._followed: dict[str, AttemptWatch] = {}

    @cached_property
    def _cluster(self) -> Cluster:
        return (self._connection or Cluster(self._settings.context)).with_patience(LAUNCHER_PATIENCE)

    @cached_property
    def _impatient(self) -> Cluster:
        """For what is asked again soon: a launcher that waits for an answer neither follows its job nor cancels it."""
        return self._cluster.with_patience(Patience())

    def ensure(self, job: Job) -> str:
        """See `Backend.ensure`. Writes the attempt's record before its object, so that no object is without one."""
        workspace = Path(self._settings.workspace.path)
        if not job.folder.resolve().is_relative_to(workspace):
            raise InputError(
                f"{job.folder}: a job on a cluster works in its workspace, {workspace}, which launcher and workers "
                "mount; start it with `steerlm run`, or in a pod that mounts the workspace"
            )
        self._folders[job.name] = job.folder
        earlier = attempts.attempts(job.folder)
        fingerprint = self._hash(job)
        newest = earlier[-1] if earlier else None
        if newest and newest.outcome is None:
            if self._object(job.name, newest.number) is not None:
                if newest.hash != fingerprint:
                    raise SteerLMError(
                        f"{job.name} is already running with other settings (attempt {newest.number}, {job.folder}); "
                        "wait for it to end, or end it"
                    )
                self._follow(job.name, job.folder, newest)
                return job.name
            self._end(job.folder, newest, JobStatus("failed", "its object was deleted"))
        elif newest and newest.outcome == "succeeded" and newest.hash == fingerprint and not job.repeat:
            return job.name
        self._start(job, fingerprint, earlier)
        return job.name

    def status(self, name: str) -> JobStatus:
        """See `Backend.status`."""
        folder = self._folder(name)
        earlier = attempts.attempts(folder) if folder else []
        if folder is None or not earlier:
            return JobStatus("failed", f"{name}: no such job")
        newest = earlier[-1]
        if newest.outcome is None:
            followed = self._follow(name, folder, newest)
            status = followed.status()
            if not status.ended:
                self._renew_heartbeat(name, newest.number)
                return status
            newest = self._end(folder, newest, status, followed.suspects)
            self._remove(name, newest, followed)
            followed.stop()
            earlier = attempts.attempts(folder)
        assert newest.outcome is not None
        return JobStatus(
            newest.outcome,
            newest.message,
            final=newest.final,
            exit_code=newest.exit_code,
            starts=attempts.starts_of_run(earlier),
            idle_starts=attempts.idle_starts(earlier),
            tail=newest.tail,
        )

    def logs(self, name: str, since: int = 0) -> Iterator[tuple[int, str]]:
        """See `Backend.logs`. Offsets are bytes of rank 0's logs of all attempts, one after the other."""
        folder = self._folder(name)
        if folder is None:
            return
        yield from attempts.lines(folder, since)

    def logged(self, job: Job) -> int:
        """See `Backend.logged`. The records in the job's folder outlive its objects."""
        return max((end for end, _ in attempts.lines(job.folder)), default=0)

    def cancel(self, name: str, *, force: bool = False) -> None:
        """See `Backend.cancel`. A job whose processes work reads the stop file; another one is deleted."""
        folder = self._folder(name)
        newest = attempts.attempts(folder)[-1] if folder else None
        if folder is None or newest is None or newest.outcome is not None:
            return
        place = attempts.attempt_folder(folder, newest.number)
        newest.model_copy(update={"canceled": True}).write(place)
        (place / STOP).touch()
        followed = self._follow(name, folder, newest)
        if force or followed.status().state != "running":
            self._remove(name, newest, followed)

    def written(self, name: str, root: Path) -> Mapping[str, FileDigest]:
        """See `Backend.written`."""
        folder = self._folders[name]
        newest = attempts.attempts(folder)[-1]
        return wait_until_visible(attempts.attempt_folder(folder, newest.number), root, limit_seconds())

    def wait(self, seconds: float) -> None:
        """See `Backend.wait`. Files in the workspace announce no change, so this is a pause, and not a short one."""
        time.sleep(max(seconds, LOOK_SECONDS))

    def drained(self) -> bool:
        """See `Backend.drained`: an eviction marks the pod before it sends the signal; a deletion does not."""
        name = os.environ.get(POD)
        if name is None:
            return False
        try:
            pod = self._cluster.find(f"{self._core}/pods/{name}")
        except ClusterError as error:
            log.warning("%s; not known whether this launcher is moved, so the job goes on", error)
            return True
        return pod is not None and "DisruptionTarget" in true_conditions(pod)

    @property
    def _core(self) -> str:
        return f"/api/v1/namespaces/{self._settings.namespace}"

    @property
    def _jobs_path(self) -> str:
        return (
            f"/apis/{self._kind.group}/{self._kind.version}/namespaces/{self._settings.namespace}/{self._kind.plural}"
        )

    def _object(self, name: str, number: int) -> Json | None:
        """Return an attempt's object; None if it is gone."""
        found: list[Json] = self._cluster.get(self._jobs_path, labelSelector=selector(name, number))["items"]
        return found[0] if found else None

    def _folder(self, name: str) -> Path | None:
        """Return a job's folder; one that another process has started is found by its newest object."""
        if name not in self._folders:
            found = self._cluster.get(self._jobs_path, labelSelector=selector(name))["items"]
            if not found:
                return None
            newest = max(found, key=lambda one: int(one["metadata"]["labels"][ATTEMPT]))
            self._folders[name] = Path(newest["metadata"]["annotations"][FOLDER])
        return self._folders[name]

    def _start(self, job: Job, fingerprint: str, earlier: list[attempts.Attempt]) -> None:
        newest = earlier[-1] if earlier else None
        number = newest.number + 1 if newest else 1
        # In containers process ids repeat, and so a launcher without a Job is told by its host too.
        run = os.environ.get(LAUNCHER) or f"{socket.gethostname()}-{os.getpid()}"
        place = attempts.attempt_folder(job.folder, number)
        place.mkdir(parents=True, exist_ok=True)
        again = newest is not None and newest.outcome == "failed"
        previous = attempts.main_log(job.folder, newest.number) if newest else None
        logged = previous.stat().st_size if previous and previous.exists() else 0
        attempt = attempts.Attempt(
            number=number,
            run=run,
            hash=fingerprint,
            nodes=job.nodes,
            log=job.log.resolve(),
            log_start=newest.log_start + logged if newest else 0,
            avoid=sorted({*newest.avoid, *newest.suspects}) if newest and again and newest.run == run else [],
        )
        for folder in job.clears:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        write_json(place / "spec.json", job.spec_json())
        entry = EntrySpec(
            module=job.module,
            spec=place / "spec.json",
            nodes=job.nodes,
            devices=job.devices,
            threads=job.threads,
            grace_seconds=self._jobs.grace_seconds,
            environment=dict(job.environment),
        )
        entry.write(place)
        attempt.write(place)
        with atomic_writer(job.folder / attempts.ATTEMPTS / CURRENT) as file:
            file.write(f"{number}\n")
        *others, object_ = self._manifests(job, attempt, fingerprint)
        self._create_all(others, object_)
        self._follow(job.name, job.folder, attempt)

    def _create_all(self, others: list[Json], object_: Json) -> None:
        """Create a job after what it names, a second time if that is gone: the reaper deletes what no job has named."""
        for last in (not others, True):
            for one in others:
                self._create(_collection(one, self._settings.namespace), one)
            try:
                self._create(self._jobs_path, object_)
                return
            except ClusterError:
                if last:
                    raise

    def _create(self, path: str, body: Json) -> None:
        """Create an object; one that exists under its name is the same, since the name says what it is."""
        try:
            self._cluster.create(path, body)
        except ClusterError as error:
            if error.status != 409:
                raise

    def _manifests(self, job: Job, attempt: attempts.Attempt, fingerprint: str) -> list[Json]:
        plan = dataclasses.replace(
            self._plan(job, attempt.number, tuple(attempt.avoid)),
            hash=fingerprint,
            heartbeat=_now(),
            owner=self._workflow(),
        )
        manifests = self._kind.manifests(plan)
        manifests[-1]["metadata"]["annotations"][FOLDER] = str(job.folder.resolve())
        return manifests

    def _plan(self, job: Job, attempt: int, avoid: tuple[str, ...]) -> PodPlan:
        place = attempts.attempt_folder(job.folder.resolve(), attempt)
        return PodPlan(
            job=job.name,
            attempt=attempt,
            component=job.image,
            image=reference(job.image, self._settings.images),
            nodes=job.nodes,
            devices=job.devices,
            folder=str(place),
            environment=dict(job.environment),
            avoid=avoid,
            restart=attempt > 1,
            grace_seconds=self._jobs.grace_seconds,
            settings=self._settings,
        )

    def _hash(self, job: Job) -> str:
        """Return the digest of the job and of its manifests, without attempt and owner."""
        manifests = self._kind.manifests(self._plan(job, 0, ()))
        return hashlib.sha256(json.dumps([job.hash(), manifests], sort_keys=True).encode()).hexdigest()

    def _workflow(self) -> Json | None:
        """Return a reference to the workflow that this launcher's pod belongs to; None if there is none."""
        name = os.environ.get(POD)
        pod = self._cluster.find(f"{self._core}/pods/{name}") if name else None
        owners: list[Json] = pod["metadata"].get("ownerReferences", []) if pod else []
        found = next((one for one in owners if one["kind"] == "Workflow"), None)
        return {key: found[key] for key in ("apiVersion", "kind", "name", "uid")} if found else None

    def _follow(self, name: str, folder: Path, attempt: attempts.Attempt) -> AttemptWatch:
        followed = self._followed.get(name)
        if followed is None or followed.number != attempt.number:
            if followed:
                followed.stop()
            followed = self._followed[name] = AttemptWatch(
                self._impatient, self._kind, self._jobs_path, self._core, name, folder, attempt
            )
        return followed

    def _renew_heartbeat(self, name: str, number: int) -> None:
        followed = self._followed[name]
        if time.monotonic() - followed.heartbeat < HEARTBEAT_SECONDS:
            return
        followed.heartbeat = time.monotonic()
        path = f"{self._jobs_path}/{attempts.object_name(name, number)}"
        try:
            self._impatient.patch(path, {"metadata": {"annotations": {HEARTBEAT: _now()}}})
        except ClusterError as error:
            log.log(logging.DEBUG if error.transient else logging.WARNING, "%s", error)

    def _end(
        self, folder: Path, attempt: attempts.Attempt, status: JobStatus, suspects: list[str] | None = None
    ) -> attempts.Attempt:
        """Record an attempt's end, and let the job's log have its lines."""
        place = attempts.attempt_folder(folder, attempt.number)
        latest = attempts.Attempt.read(place)  # canceled may have been set
        outcome = status.state if status.state in ("succeeded", "interrupted") else "failed"
        if latest.canceled and outcome == "failed" and not status.final:
            outcome = "interrupted"
        ended = latest.model_copy(
            update={
                "outcome": outcome,
                "message": status.message,
                "final": status.final,
                "exit_code": status.exit_code,
                "tail": list(status.tail),
                "suspects": suspects or [],
                "step": int(reported(place).get("step", 0)),
            }
        )
        ended.write(place)
        attempts.append_log(ended, attempts.main_log(folder, attempt.number))
        return ended

    def _remove(self, name: str, attempt: attempts.Attempt, followed: AttemptWatch) -> None:
        """Delete an attempt's object, unless it has succeeded; pods on lost nodes are deleted without waiting."""
        if attempt.outcome == "succeeded":
            return
        gone = [pod["metadata"]["name"] for pod in followed.pods_on_lost_nodes()]
        with contextlib.suppress(ClusterError):
            self._cluster.delete(f"{self._jobs_path}/{attempts.object_name(name, attempt.number)}")
            for pod in gone:
                self._cluster.delete(f"{self._core}/pods/{pod}", grace_seconds=0)


def _collection(manifest: Json, namespace: str) -> str:
    kind = str(manifest["kind"]).lower()
    return f"/apis/{manifest['apiVersion']}/namespaces/{namespace}/{kind}s"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
