# SPDX-License-Identifier: Apache-2.0
"""What each identity may do on a cluster: the one list that `manifests/base` grants and `steerlm doctor` asks about."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AccessRule:
    """A rule of a Role. `group`: API group, "" for Kubernetes' own objects."""

    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Access:
    """One verb on one resource; `subresource` such as `log`, or ""."""

    group: str
    resource: str
    subresource: str
    verb: str

    def __str__(self) -> str:
        """Return it as `kubectl auth can-i` takes it, such as `get pods/log` or `create pytorchjobs.kubeflow.org`."""
        name = f"{self.resource}.{self.group}" if self.group else self.resource
        return f"{self.verb} {name}" + (f"/{self.subresource}" if self.subresource else "")


JOB_VERBS = ("create", "list", "watch", "patch", "delete")
LAUNCHER = (
    AccessRule("kubeflow.org", ("pytorchjobs", "mpijobs"), JOB_VERBS),
    AccessRule("trainer.kubeflow.org", ("trainjobs",), JOB_VERBS),
    AccessRule("trainer.kubeflow.org", ("trainingruntimes",), ("create",)),
    AccessRule("", ("pods",), ("get", "list", "watch", "delete")),
    AccessRule("", ("pods/log",), ("get",)),
    AccessRule("coordination.k8s.io", ("leases",), ("create", "get", "patch", "delete")),
    AccessRule("kueue.x-k8s.io", ("workloads",), ("list",)),
)
"""The launcher's Role in the namespace."""
LAUNCHER_CLUSTER = (AccessRule("", ("nodes",), ("list", "watch")),)
"""The launcher's ClusterRole."""
REAPER = (
    AccessRule("kubeflow.org", ("pytorchjobs", "mpijobs"), ("list", "delete")),
    AccessRule("trainer.kubeflow.org", ("trainjobs", "trainingruntimes"), ("list", "delete")),
)
"""The reaper's Role in the namespace."""
USER = (
    AccessRule("", ("pods",), ("create", "get", "list", "delete")),
    AccessRule("", ("pods/log",), ("get",)),
    AccessRule("", ("configmaps",), ("create", "get", "patch")),
    AccessRule("batch", ("jobs",), ("create", "get", "delete")),
)
"""What a person needs in the namespace to submit, follow and cancel a run; the role `edit` contains it."""


def single(rules: tuple[AccessRule, ...]) -> Iterator[Access]:
    """Yield every verb on every resource that the rules grant.

    >>> [str(access) for access in single((AccessRule("", ("pods/log",), ("get",)),))]
    ['get pods/log']
    """
    for rule in rules:
        for name in rule.resources:
            resource, _, subresource = name.partition("/")
            for verb in rule.verbs:
                yield Access(rule.group, resource, subresource, verb)


def access(method: str, path: str, *, watching: bool = False) -> Access | None:
    """Return what a request needs; None for a path that is no object's, such as `/version`.

    >>> str(access("POST", "/apis/kubeflow.org/v1/namespaces/steerlm/pytorchjobs"))
    'create pytorchjobs.kubeflow.org'
    >>> str(access("GET", "/api/v1/namespaces/steerlm/pods/launcher/log"))
    'get pods/log'
    """
    root, *parts = path.strip("/").split("/")
    group = parts.pop(0) if root == "apis" and parts else ""
    parts = parts[1:]  # the version
    if root not in ("api", "apis") or not parts:
        return None
    if parts[0] == "namespaces" and len(parts) > 2:
        parts = parts[2:]
    resource, name, subresource, *_ = *parts, "", ""
    reading = "watch" if watching else "get" if name else "list"
    verb = {"GET": reading, "POST": "create", "PATCH": "patch", "DELETE": "delete"}.get(method, method.lower())
    return Access(group, resource, subresource, verb)
