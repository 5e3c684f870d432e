# SPDX-License-Identifier: Apache-2.0
"""The section `cluster` of a profile: where on a Kubernetes cluster jobs run. Torch-free, and imports no client."""

from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt

from steerlm.settings import Settings


def _as_text(value: Any) -> Any:
    """Return a number as Kubernetes writes it: in YAML, `cpu: 96` is one."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Quantity = Annotated[str, BeforeValidator(_as_text), Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$")]
"""A Kubernetes resource quantity, such as `200Gi` or `96`."""
Label = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
"""An RFC 1123 label: the name of an object or a namespace."""
Fabric = Literal["none", "ib", "roce", "efa"]


def _absolute(path: PurePosixPath) -> PurePosixPath:
    if not path.is_absolute() or path == PurePosixPath("/"):
        raise ValueError("must be an absolute path, such as /workspace")
    return path


class WorkspaceSettings(Settings):
    """The shared volume of launcher and workers: store copy, token indexes, checkpoints, results until they are sealed.

    Its claim must allow ReadWriteMany, and every pod mounts it at the same path.
    """

    claim: Label = "steerlm-workspace"
    path: Annotated[PurePosixPath, AfterValidator(_absolute)] = PurePosixPath("/workspace")


class ImageSettings(Settings):
    """Replaces registry and tag of the images that `images/images.yaml` names."""

    registry: str | None = None
    tag: str | None = None
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    pull_secrets: tuple[Label, ...] = ()


class ResourceSettings(Settings):
    """What the pod of one node of a job gets; requests equal limits. GPUs: one per process of the layout."""

    gpu: str | None = "nvidia.com/gpu"
    """The resource's name; null: processes compute on the CPU."""
    cpu: Quantity = "96"
    memory: Quantity = "1000Gi"
    shared_memory: Quantity = "64Gi"
    """Size of /dev/shm; counts against `memory`."""
    ephemeral_storage: Quantity = "50Gi"
    extra: dict[str, Quantity] = Field(default_factory=dict)
    """Further resources, such as the fabric's: `rdma/ib: "8"`, `vpc.amazonaws.com/efa: "32"`."""


class PlacementSettings(Settings):
    """On which nodes a job's pods run, and before which others."""

    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: tuple[dict[str, Any], ...] = ({"key": "nvidia.com/gpu", "operator": "Exists"},)
    topology_key: str | None = None
    """A level of Kueue's topology, such as the label of a rack: a job gets nodes of one value of it, if possible."""
    priority_class: Label | None = None
    """With a queue a WorkloadPriorityClass of Kueue, without one a PriorityClass."""
    restart_priority_class: Label | None = None
    """The same for later attempts, so that a restarted job is not queued behind new ones; null: that of the first."""


class LauncherSettings(Settings):
    """The launcher's pod, which has no GPU."""

    service_account: Label = "steerlm-launcher"
    queue: Label | None = None
    cpu: Quantity = "2"
    memory: Quantity = "8Gi"
    secrets: tuple[Label, ...] = ()
    """Secrets whose keys are its environment: credentials of the store and of MLflow. Workers get none."""


class ClusterSettings(Settings):
    """Where on a cluster jobs run."""

    namespace: Label = "steerlm"
    context: str | None = None
    """Context of the kubeconfig; null: the current one, or the pod's service account."""
    workspace: WorkspaceSettings = WorkspaceSettings()
    images: ImageSettings = ImageSettings()
    queue: Label | None = None
    """The local queue of Kueue that admits jobs; null: no queue, and a job that does not fit waits in part."""
    resources: ResourceSettings = ResourceSettings()
    placement: PlacementSettings = PlacementSettings()
    fabric: Fabric = "none"
    """The network between nodes; ConfigMap `steerlm-fabric-NAME` has its NCCL settings."""
    launcher: LauncherSettings = LauncherSettings()
    service_account: Label = "steerlm-worker"
    """Of the pods of jobs, which get no token of it: policies and pull secrets of a site hang on it."""
    uid: PositiveInt = 1000
    gid: PositiveInt = 1000
    deadline_hours: PositiveInt = 72
    """After so long a job is ended, whatever happens to its launcher."""
