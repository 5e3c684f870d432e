# SPDX-License-Identifier: Apache-2.0
"""How the launcher supervises a job: retries, stalls, time to stop. Torch-free; independent of the job's work."""

from pydantic import PositiveFloat, PositiveInt

from steerlm.training.layout import FaultSettings


class JobSettings(FaultSettings):
    """The section `jobs` of a profile. The keys of `FaultSettings` go to the worker."""

    attempts: PositiveInt = 1
    """Starts in all. A job is started again if processes die for a reason that may pass (a kill, a crash); an error
    that the worker itself reports is final."""
    idle_attempts: PositiveInt = 2
    """On a cluster, starts in a row without a new step after which the job is not started again."""
    queue_minutes: PositiveFloat | None = None
    """Longest wait for admission by a cluster's queue; null: no limit."""
    startup_minutes: PositiveFloat = 30.0
    """On a cluster, longest time from admission to the first sign of all processes: scheduling, image, rendezvous."""
    no_progress_minutes: PositiveFloat = 60.0
    """A job that logs nothing for so long, on a cluster changes neither phase nor step, is stalled and is killed."""
    grace_seconds: PositiveFloat = 300.0
    """Time to save after a stop was requested."""

    @property
    def faults(self) -> FaultSettings:
        """The keys that the worker reads, without those of the launcher."""
        return FaultSettings(**{name: getattr(self, name) for name in FaultSettings.model_fields})
