# SPDX-License-Identifier: Apache-2.0
"""How a training job is looked after. Torch-free; knows nothing of what the job computes."""

from pydantic import PositiveFloat, PositiveInt

from steerlm.training.layout import FaultSettings


class JobSettings(FaultSettings):
    """`attempts`: starts in all, when processes die for a reason that may pass (a kill, a crash); an error that the
    worker itself reports is final. `no_progress_minutes`: a job that neither logs nor measures for so long is stuck.
    `grace_seconds`: time to save after it is asked to stop. The keys of `FaultSettings` go to the worker."""

    attempts: PositiveInt = 1
    no_progress_minutes: PositiveFloat = 60.0
    grace_seconds: PositiveFloat = 300.0

    @property
    def faults(self) -> FaultSettings:
        return FaultSettings(**{name: getattr(self, name) for name in FaultSettings.model_fields})
