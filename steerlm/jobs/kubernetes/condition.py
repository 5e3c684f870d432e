# SPDX-License-Identifier: Apache-2.0
"""What the `conditions` of an object say, and for job objects in words that are the same for each kind of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Phase = Literal["created", "queued", "running", "succeeded", "failed"]


@dataclass(frozen=True, slots=True)
class ObjectState:
    """The state of a job object.

    Attributes:
        phase: "created": accepted, pods not all started; "queued": suspended, so that it has no pods.
        reason: The operator's one word for it; "" if there is none.
        message: The operator's sentence on it; "" if there is none.
    """

    phase: Phase
    reason: str = ""
    message: str = ""


def true_conditions(manifest: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the conditions whose status is "True", by type."""
    conditions = (manifest.get("status") or {}).get("conditions") or []
    return {condition["type"]: condition for condition in conditions if condition["status"] == "True"}


def state(phase: Phase, condition: Mapping[str, Any]) -> ObjectState:
    """Return a phase with a condition's reason and message."""
    return ObjectState(phase, condition.get("reason", ""), condition.get("message", ""))
