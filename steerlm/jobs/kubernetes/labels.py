# SPDX-License-Identifier: Apache-2.0
"""Labels and annotations of jobs on a cluster: how launcher, reaper and network policies find what belongs together."""

MANAGED_BY = "app.kubernetes.io/managed-by"
STEERLM = "steerlm"
COMPONENT = "app.kubernetes.io/component"
"""Name of the image, such as `train-reward`."""
JOB = "steerlm.dev/job"
"""Name of the job (`backend.job_name`), the same for all its attempts."""
ATTEMPT = "steerlm.dev/attempt"
"""Number of the attempt, from 1."""
ROLE = "steerlm.dev/role"
"""On pods only: what a pod of a job does."""
NODE_ROLE = "node"
"""Value of `ROLE`: computes. A job has one such pod per node."""
MPI_LAUNCHER_ROLE = "mpi-launcher"
"""Value of `ROLE`: starts the agents of an MPIJob, and computes nothing."""
RUN = "steerlm.dev/run"
"""On a launcher's objects: name of the run."""

HASH = "steerlm.dev/hash"
"""Annotation: the hash of the job and of its manifest."""
HEARTBEAT = "steerlm.dev/heartbeat"
"""Annotation: RFC 3339 time, renewed by the launcher; the reaper deletes jobs whose heartbeat is old."""
FOLDER = "steerlm.dev/folder"
"""Annotation: the job's folder in the workspace, by which another process finds its records."""

QUEUE = "kueue.x-k8s.io/queue-name"
WORKLOAD_PRIORITY = "kueue.x-k8s.io/priority-class"
PREFERRED_TOPOLOGY = "kueue.x-k8s.io/podset-preferred-topology"
TOPOLOGY_GROUP = "kueue.x-k8s.io/podset-group-name"


def selector(job: str, attempt: int | None = None, role: str | None = None) -> str:
    """Return the label selector of a job's objects and pods: of all attempts, or of one; of all pods, or of a role.

    >>> selector("train-reward-1f", 2)
    'app.kubernetes.io/managed-by=steerlm,steerlm.dev/job=train-reward-1f,steerlm.dev/attempt=2'
    """
    wanted = {MANAGED_BY: STEERLM, JOB: job, ATTEMPT: attempt, ROLE: role}
    return ",".join(f"{key}={value}" for key, value in wanted.items() if value is not None)
