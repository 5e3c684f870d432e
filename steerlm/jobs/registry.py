# SPDX-License-Identifier: Apache-2.0
"""The back ends by the name that a profile's key `backend` gives them. A new back end is one entry here."""

from collections.abc import Callable
from typing import Protocol

from steerlm.jobs.backend import Backend
from steerlm.jobs.config import JobSettings
from steerlm.jobs.kubernetes.config import ClusterSettings
from steerlm.jobs.local import LocalBackend


class BackendProfile(Protocol):
    """The part of a profile that back ends and the launcher read."""

    @property
    def name(self) -> str:
        """Name of the profile."""

    @property
    def backend(self) -> str:
        """Key of the back end in `BACKENDS`."""

    @property
    def jobs(self) -> JobSettings:
        """Settings of the launcher: retries, stalls and the grace period."""

    @property
    def cluster(self) -> ClusterSettings:
        """Where on a Kubernetes cluster jobs run."""


def _on_cluster(profile: BackendProfile) -> Backend:
    from steerlm.jobs.kubernetes.backend import KubernetesBackend

    return KubernetesBackend(profile.backend, profile.cluster, profile.jobs)


LOCAL = "local"
"""The back end whose jobs run on this machine; others know their own hardware."""
BACKENDS: dict[str, Callable[[BackendProfile], Backend]] = {
    LOCAL: lambda profile: LocalBackend(profile.jobs.grace_seconds),
    "pytorchjob": _on_cluster,
    "mpijob": _on_cluster,
    "trainjob": _on_cluster,
}


def make_backend(profile: BackendProfile) -> Backend:
    """Return the back end that a profile names. Starts nothing and writes nothing."""
    return BACKENDS[profile.backend](profile)
