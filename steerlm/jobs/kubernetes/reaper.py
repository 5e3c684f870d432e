# SPDX-License-Identifier: Apache-2.0
"""Deletes jobs that no launcher looks after: `python -m steerlm.jobs.kubernetes.reaper`, a CronJob of the namespace.

A launcher renews the annotation `steerlm.dev/heartbeat` of its job, whether the job runs, waits in a queue or is
suspended. A launcher that was killed cannot delete its job; after ten minutes without a heartbeat this does. An ended
job holds no GPU and may be what the next launcher attaches to, so it stays for a day.
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
from steerlm.jobs.kubernetes.client import Cluster, ClusterError
from steerlm.jobs.kubernetes.condition import true_conditions
from steerlm.jobs.kubernetes.kinds import KINDS
from steerlm.jobs.kubernetes.labels import HEARTBEAT, MANAGED_BY, STEERLM

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
ENDED = {"Succeeded", "Complete", "Failed"}
"""Conditions with which a job of any kind has ended."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReapLimits:
    """How old a job's newest heartbeat may be: of a job that has not ended, and of one that has."""

    heartbeat: timedelta = timedelta(minutes=10)
    ended: timedelta = timedelta(hours=24)


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
        try:
            jobs = cluster.get(path, labelSelector=f"{MANAGED_BY}={STEERLM}")["items"]
        except ClusterError as error:
            if error.status != 404:
                raise
            log.info("no %s on this cluster", kind.plural)
            continue
        for job in jobs:
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
    parser.add_argument("--context", help="Context of the kubeconfig, to run outside a pod.")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    try:
        namespace = options.namespace or NAMESPACE_FILE.read_text(encoding="utf-8").strip()
    except OSError:
        parser.error("not in a pod: give --namespace")
    limits = ReapLimits(timedelta(minutes=options.minutes), timedelta(hours=options.ended_hours))
    try:
        deleted = reap(Cluster(options.context), namespace, limits)
    except SteerLMError as error:
        log.error("%s", error)
        return error.exit_code
    log.info("deleted %d jobs", len(deleted))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
