# SPDX-License-Identifier: Apache-2.0
"""Runs a recipe's pipeline on a cluster: submits its launcher, follows the launcher's log, cancels it.

A run's name is made of what it runs, so the same command attaches to a run that is under way and starts one that has
ended again. Nothing here is needed for the run to go on: whoever submitted it may leave.
"""

import hashlib
import json
import logging
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePosixPath

from steerlm.errors import ConfigError, InputError, Interrupted, SteerLMError
from steerlm.jobs.kubernetes import labels
from steerlm.jobs.kubernetes.client import REFUSAL_SECONDS, Cluster, ClusterError, Json, Patience
from steerlm.jobs.kubernetes.condition import true_conditions
from steerlm.jobs.kubernetes.images import reference
from steerlm.jobs.kubernetes.launcher_job import COMPONENT, config_map, launcher_job
from steerlm.jobs.kubernetes.pods import never_starts, waiting
from steerlm.jobs.registry import LOCAL
from steerlm.pipeline.local import check_run
from steerlm.recipe import Profile, ResolvedRecipe
from steerlm.signals import CTRL_C_EXIT_CODE, handled
from steerlm.storage import is_remote

POLL_SECONDS = 1.0
RECIPE, PROFILE, OPTIONS = "recipe.json", "profile.json", "options.json"
NAME_LENGTH = 40
log = logging.getLogger(__name__)


def is_submitted(profile: Profile) -> bool:
    """Return whether a profile's runs have a launcher in the cluster."""
    return profile.backend != LOCAL


def run_name(resolved: ResolvedRecipe) -> str:
    """Return the name of a run, equal for equal recipes, profiles and options: a DNS-1123 label."""
    digest = hashlib.sha256(json.dumps(_files(resolved), sort_keys=True).encode()).hexdigest()[:8]
    label = re.sub(r"[^a-z0-9]+", "-", resolved.recipe.name.lower()).strip("-")[:NAME_LENGTH].rstrip("-")
    return f"run-{label or 'recipe'}-{digest}"


class SubmittedRun:
    """What a launcher's pod runs on a cluster.

    Args:
        name: Name of the run, a DNS-1123 label that says its content.
        files: What the launcher reads (`cli/launch.py`), by name.
        profile: Names the cluster.
        cluster: The connection; None: the one that the profile names.
    """

    def __init__(self, name: str, files: Mapping[str, str], profile: Profile, cluster: Cluster | None = None) -> None:
        self.name, self.settings = name, profile.cluster
        self._files, self._grace_seconds = files, profile.jobs.grace_seconds
        self._cluster = cluster or Cluster(self.settings.context)

    @property
    def _core(self) -> str:
        return f"/api/v1/namespaces/{self.settings.namespace}"

    @property
    def _jobs(self) -> str:
        return f"/apis/batch/v1/namespaces/{self.settings.namespace}/jobs"

    def submit(self) -> bool:
        """Create the launcher; return False if it runs already. One that has ended is started again."""
        job = self._cluster.find(f"{self._jobs}/{self.name}")
        if job is not None and not _ended(job):
            return False
        if job is not None:
            self._delete(job)
        manifest = config_map(self.name, self.settings, self._files)
        try:
            self._cluster.create(f"{self._core}/configmaps", manifest)
        except ClusterError as error:
            if error.status != 409:  # of an earlier submission that got no further; the name says its content
                raise
        image = reference(COMPONENT, self.settings.images)
        wanted = launcher_job(self.name, self.settings, image, self._grace_seconds)
        created = self._cluster.create(self._jobs, wanted)
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": self.name, "uid": created["metadata"]["uid"]}
        self._cluster.patch(f"{self._core}/configmaps/{self.name}", {"metadata": {"ownerReferences": [owner]}})
        return True

    def follow(self, show: Callable[[str], None]) -> None:
        """Show the launcher's lines until the run has ended. Ctrl-C cancels the run; a second one only stops looking.

        Raises:
            SteerLMError: The run failed. `InputError`, `Interrupted` and KeyboardInterrupt as of a run on this machine.
        """
        signals: list[int] = []
        with handled([signal.SIGINT, signal.SIGTERM], signals.append):
            code = self._follow(show, signals)
        if signals and signals[0] == signal.SIGINT:
            raise KeyboardInterrupt
        if code == 0:
            return
        if code == CTRL_C_EXIT_CODE or code == Interrupted.exit_code or signals:
            raise Interrupted(f"{self.name} was canceled; the same command resumes it")
        raise (InputError if code == InputError.exit_code else SteerLMError)(f"{self.name} failed; its log is above")

    def cancel(self) -> None:
        """Request that the run stop: its launcher ends its jobs, which save first."""
        self._cluster.delete(f"{self._jobs}/{self.name}")

    def _follow(self, show: Callable[[str], None], signals: list[int]) -> int:
        """Return the exit code of the last launcher pod."""
        self._cluster = self._cluster.with_patience(Patience(refusal=REFUSAL_SECONDS))
        reader, waits, canceled = _LogReader(self._cluster, f"{self._core}/pods", show), "", False
        while True:
            try:
                if signals and not canceled:
                    show(f"canceling {self.name}; its jobs save first")
                    self.cancel()
                    canceled = True
                if len(signals) > 1:
                    return Interrupted.exit_code
                pods = self._pods()
                if (text := _waits(pods)) and text != waits:
                    show(f"the launcher is waiting: {text}")
                    waits = text
                if reason := never_starts(pods):
                    raise SteerLMError(f"the launcher cannot start: {reason}")
                for pod in pods:
                    reader.read(pod)
                job = self._cluster.find(f"{self._jobs}/{self.name}")
                if (job is None or _ended(job)) and not any(_active(pod) for pod in self._pods()):
                    for pod in self._pods():
                        reader.read(pod)
                    return _code(job, reader.codes)
            except ClusterError as error:
                if not error.transient:
                    raise
                log.warning("%s; trying again", error)
            time.sleep(POLL_SECONDS)

    def _pods(self) -> list[Json]:
        listed = self._cluster.get(f"{self._core}/pods", labelSelector=f"{labels.RUN}={self.name}")["items"]
        return sorted(listed, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    def _delete(self, job: Json) -> None:
        self._cluster.delete(f"{self._jobs}/{self.name}", propagation="Foreground")
        deadline = time.monotonic() + 60
        while (found := self._cluster.find(f"{self._jobs}/{self.name}")) is not None:
            if found["metadata"]["uid"] != job["metadata"]["uid"] or time.monotonic() > deadline:
                raise SteerLMError(f"{self.name} has ended and is still being deleted; try again in a minute")
            time.sleep(POLL_SECONDS)


class PipelineSubmission(SubmittedRun):
    """A recipe's pipeline on a cluster.

    Args:
        resolved: Recipe, profile and options.
        cluster: The connection; None: the one that the profile names.

    Raises:
        ConfigError: The profile's store is out of reach of the cluster.
    """

    def __init__(self, resolved: ResolvedRecipe, cluster: Cluster | None = None) -> None:
        check_store(resolved.profile)
        check_run(resolved)
        super().__init__(run_name(resolved), _files(resolved), resolved.profile, cluster)


class _LogReader:
    """Shows each pod's new lines, once. A pod's log is asked for from the last second that was shown."""

    def __init__(self, cluster: Cluster, path: str, show: Callable[[str], None]) -> None:
        self._cluster, self._path, self._show = cluster, path, show
        self._shown: dict[str, str] = {}
        self.codes: dict[str, int] = {}

    def read(self, pod: Json) -> None:
        name = pod["metadata"]["name"]
        for container in pod.get("status", {}).get("containerStatuses", []):
            if ended := container["state"].get("terminated"):
                self.codes[name] = int(ended["exitCode"])
        if pod.get("status", {}).get("phase") in (None, "Pending", "Unknown"):
            return
        last = self._shown.get(name, "")
        query = {"timestamps": "true", **({"sinceTime": f"{last[:19]}Z"} if last else {})}
        try:
            text = self._cluster.text(f"{self._path}/{name}/log", **query)
        except ClusterError as error:
            if error.status in (400, 404) or error.transient:  # not started, or gone with its node
                return
            raise
        for stamp, line in _stamped(text):
            if stamp > last:
                self._show(line)
                self._shown[name] = last = stamp


def _stamped(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        stamp, _, rest = line.partition(" ")
        yield stamp, rest


def _files(resolved: ResolvedRecipe) -> dict[str, str]:
    return {
        RECIPE: resolved.recipe.model_dump_json(),
        PROFILE: resolved.profile.model_dump_json(),
        OPTIONS: resolved.options.model_dump_json(),
    }


def check_store(profile: Profile) -> None:
    """Raise `ConfigError` unless a profile's store is `s3://` or a folder in its workspace."""
    path = PurePosixPath(profile.store)
    if not is_remote(profile.store) and not path.is_relative_to(profile.cluster.workspace.path):
        raise ConfigError(
            f"store {profile.store}: launcher and workers cannot reach it; give s3://bucket/prefix, or a folder in the "
            f"workspace, such as --store {profile.cluster.workspace.path}/store"
        )


def _ended(job: Json) -> bool:
    return not true_conditions(job).keys().isdisjoint(("Complete", "Failed"))


def _active(pod: Json) -> bool:
    return pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")


def _waits(pods: list[Json]) -> str:
    return waiting(pods, 1) if not any(not _active(pod) for pod in pods) else ""


def _code(job: Json | None, codes: dict[str, int]) -> int:
    """Return the exit code of the newest pod whose code is known; that of a canceled run if there is none."""
    if job is not None and "Complete" in true_conditions(job):
        return 0
    return list(codes.values())[-1] if codes else Interrupted.exit_code
