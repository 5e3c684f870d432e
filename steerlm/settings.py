# SPDX-License-Identifier: Apache-2.0
"""The base class of every settings class: recipe and profile sections, worker specs, model shapes."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Immutable settings: unknown keys are errors, numbers are finite, and default values are validated too."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)
