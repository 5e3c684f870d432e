# SPDX-License-Identifier: Apache-2.0
"""Deletes jobs that no launcher looks after: `python -m steerlm.jobs.kubernetes.reaper`, a CronJob of the namespace.

A launcher renews the annotation `steerlm.dev/heartbeat` of its job, whether the job runs, waits in a queue or is
suspended. A launcher that was killed cannot delete its job; after ten minutes without a heartbeat this does. An ended
job holds no GPU and may be what the next launcher attaches to, so it stays for a day.

TrainingRuntimes are shared by TrainJobs that are alike (`trainjob.py`), so nothing owns them. Those that no TrainJob
names any more are deleted an hour after they were made; a launcher that needs one again makes it again.
"""

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from steerlm.errors import SteerLMError
from steerlm.jobs.kubernetes.client import Cluster, ClusterError, Json
from steerlm.jobs.kubernetes.condition import true_conditions
from steerlm.jobs.kubernetes.kinds import KINDS
from steerlm.jobs.kubernetes.labels import HEARTBEAT, MANAGED_BY, STEERLM

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
OURS, RUNTIMES = f"{MANAGED_BY}={STEERLM}", "trainingruntimes"
ENDED = {"Succeeded", "Complete", "Failed"}
"""Conditions with which a job of any kind has ended."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReapLimits:
    """How old a job's newest heartbeat may be, of one that has not ended and of one that has; and an unused runtime."""

    heartbeat: timedelta = timedelta(minutes=10)
    ended: timedelta = timedelta(hours=24)
    runtime: timedelta = timedelta(hours=1)


def reap(cluster: Cluster, namespace: str, limits: ReapLimits) -> list[str]:
    """Delete the jobs of the namespace whose heartbeat is too old; return `KIND/NAME` of each.

    A heartbeat that is renewed between the look and the deletion saves the job. Kinds whose operator is not installed
    are skipped.

    Raises:
        ClusterError: The API server refused or did not answer.
    """
    deleted = []
    for kind in KINDS.values():
        path = f"/apis/{kind.group}/{kind.version}/namespaces/{namespace}/{kind.plural}"
        for job in _list(cluster, path, labelSelector=OURS):
            name = f"{kind.name}/{job['metadata']['name']}"
            age, limit = _age(job["metadata"]), _limit(job, limits)
            if age <= limit:
                log.info("%s: heartbeat %s old, kept", name, _words(age))
            elif _delete(cluster, f"{path}/{job['metadata']['name']}", job["metadata"]):
                log.warning("%s: heartbeat %s old, deleted (limit %s)", name, _words(age), _words(limit))
                deleted.append(name)
            else:
                log.info("%s: changed since, kept", name)
    return deleted


def reap_runtimes(cluster: Cluster, namespace: str, limit: timedelta) -> list[str]:
    """Delete our TrainingRuntimes that are older than `limit` and that no TrainJob names; return their names.

    Raises:
        ClusterError: The API server refused or did not answer.
    """
    kind = KINDS["trainjob"]
    path = f"/apis/{kind.group}/{kind.version}/namespaces/{namespace}"
    runtimes = _list(cluster, f"{path}/{RUNTIMES}", labelSelector=OURS)
    # Listed after the runtimes, so that no job is missed that names one of them; anyone's jobs count.
    jobs = _list(cluster, f"{path}/{kind.plural}") if runtimes else []
    used = {job["spec"]["runtimeRef"]["name"] for job in jobs}
    deleted = []
    for runtime in runtimes:
        name = runtime["metadata"]["name"]
        age = datetime.now(UTC) - datetime.fromisoformat(runtime["metadata"]["creationTimestamp"])
        if name in used or age <= limit:
            log.info("TrainingRuntime/%s: %s, kept", name, "in use" if name in used else f"{_words(age)} old")
        elif _delete(cluster, f"{path}/{RUNTIMES}/{name}", runtime["metadata"]):
            log.info("TrainingRuntime/%s: no TrainJob names it, deleted", name)
            deleted.append(name)
    return deleted


def _list(cluster: Cluster, path: str, **query: str) -> list[Json]:
    """Return the objects of a collection; none if its kind is not installed."""
    try:
        found: list[Json] = cluster.get(path, **query)["items"]
    except ClusterError as error:
        if error.status != 404:
            raise
        log.info("no %s on this cluster", path.rpartition("/")[2])
        return []
    return found


def _age(metadata: Mapping[str, Any]) -> timedelta:
    """Return the time since the newest heartbeat; since the creation of a job without one that can be read."""
    text = (metadata.get("annotations") or {}).get(HEARTBEAT, "")
    try:
        beat = datetime.fromisoformat(text)
    except ValueError:
        beat = datetime.fromisoformat(metadata["creationTimestamp"])
    return datetime.now(UTC) - (beat if beat.tzinfo else beat.replace(tzinfo=UTC))


def _limit(job: Mapping[str, Any], limits: ReapLimits) -> timedelta:
    return limits.ended if ENDED & true_conditions(job).keys() else limits.heartbeat


def _delete(cluster: Cluster, path: str, metadata: Mapping[str, Any]) -> bool:
    """Delete exactly the version that was seen; return False if another process has changed or deleted it since."""
    try:
        cluster.delete(path, resource_version=metadata["resourceVersion"])
    except ClusterError as error:
        if error.status == 409:
            return False
        raise
    return True


def _words(span: timedelta) -> str:
    minutes = span.total_seconds() / 60
    return f"{minutes:.1f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def main(arguments: Sequence[str]) -> int:
    """Run once; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m steerlm.jobs.kubernetes.reaper", description=__doc__)
    parser.add_argument("--namespace", help="Default: the one of the pod that this runs in.")
    parser.add_argument("--minutes", type=float, default=10.0, help="Age of a heartbeat at which a job is deleted.")
    parser.add_argument("--ended-hours", type=float, default=24.0, help="The same for a job that has ended.")
    parser.add_argument("--runtime-minutes", type=float, default=60.0, help="Age of an unused TrainingRuntime.")
    parser.add_argument("--context", help="Context of the kubeconfig, to run outside a pod.")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    try:
        namespace = options.namespace or NAMESPACE_FILE.read_text(encoding="utf-8").strip()
    except OSError:
        parser.error("not in a pod: give --namespace")
    runtime = timedelta(minutes=options.runtime_minutes)
    limits = ReapLimits(timedelta(minutes=options.minutes), timedelta(hours=options.ended_hours), runtime)
    try:
        cluster = Cluster(options.context)
        deleted = reap(cluster, namespace, limits)
        runtimes = reap_runtimes(cluster, namespace, limits.runtime)
    except SteerLMError as error:
        log.error("%s", error)
        return error.exit_code
    log.info("deleted %d jobs and %d runtimes", len(deleted), len(runtimes))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
