# SPDX-License-Identifier: Apache-2.0
"""The kinds of job objects by the name that a profile's key `backend` gives them. A new kind is one entry here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from steerlm.jobs.kubernetes import mpijob, pytorchjob, trainjob
from steerlm.jobs.kubernetes.condition import ObjectState
from steerlm.jobs.kubernetes.pod import Manifest, PodPlan


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of job object.

    Attributes:
        name: Its `kind`.
        group: API group.
        version: API version.
        plural: Its resource in the API.
        manifests: Returns the objects of an attempt in the order in which they are applied; the job is the last.
        state: Returns the state of a job object as the API server returns it.
    """

    name: str
    group: str
    version: str
    plural: str
    manifests: Callable[[PodPlan], list[Manifest]]
    state: Callable[[Mapping[str, Any]], ObjectState]


KINDS: dict[str, Kind] = {
    "pytorchjob": Kind(
        "PyTorchJob", "kubeflow.org", "v1", "pytorchjobs", pytorchjob.manifests, pytorchjob.object_state
    ),
    "mpijob": Kind("MPIJob", "kubeflow.org", "v2beta1", "mpijobs", mpijob.manifests, pytorchjob.object_state),
    "trainjob": Kind(
        "TrainJob", "trainer.kubeflow.org", "v1alpha1", "trainjobs", trainjob.manifests, trainjob.object_state
    ),
}
