# SPDX-License-Identifier: Apache-2.0
"""What `steerlm doctor` can only see from inside: `python -m steerlm.jobs.kubernetes.probe JSON` in a pod.

The first pod has the launcher's image and service account: it asks for its rights, reaches the store and MLflow, and
writes a file into the workspace. The second one has a worker's image, and reads that file. Each prints its findings as
its last line.
"""

import os
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel

from steerlm.artifact import Store
from steerlm.errors import SteerLMError, first_line
from steerlm.jobs.finding import Finding, right, to_json, wrong
from steerlm.jobs.kubernetes.checks import MANIFESTS, allowed
from steerlm.jobs.kubernetes.client import Cluster
from steerlm.jobs.kubernetes.permissions import LAUNCHER, LAUNCHER_CLUSTER, single
from steerlm.storage import is_remote

SECONDS = 20
"""Patience with one server."""


class ProbeSpec(BaseModel):
    """What a pod looks at.

    Attributes:
        workspace: Where it is mounted.
        file: Name of the file that the first pod writes and the second one reads.
        write: This is the first pod.
        namespace: Where the launcher's rights are asked for; None: not asked.
        store: URI of the artifact store; None: not looked at.
        tracking: Look at the tracking server.
        mlflow: Its URI; None: the variable MLFLOW_TRACKING_URI of the pod.
        needed_bytes: Space that a recipe needs in the workspace; None: not known.
    """

    workspace: Path
    file: str
    write: bool
    namespace: str | None = None
    store: str | None = None
    tracking: bool = False
    mlflow: str | None = None
    needed_bytes: int | None = None


def probe(spec: ProbeSpec) -> Iterator[Finding]:
    """Look at everything that the spec names."""
    yield from check_workspace(spec)
    if spec.namespace is not None:
        yield check_rights(Cluster(), spec.namespace)
    if spec.store is not None:
        yield check_store(spec.store)
    if spec.tracking:
        yield check_mlflow(spec.mlflow or os.environ.get("MLFLOW_TRACKING_URI"))


def check_workspace(spec: ProbeSpec) -> Iterator[Finding]:
    """Write the file, or read and delete it; compare the free space with what is needed."""
    path, who = spec.workspace / spec.file, f"uid {os.getuid()}, gid {os.getgid()}"
    mend = "give the volume the group cluster.gid and mode 2775; see docs/kubernetes.md, The workspace"
    try:
        if spec.write:
            path.write_text(spec.file, encoding="utf-8")
            path.chmod(0o664)
            yield right("workspace", f"written by the launcher's image ({who})")
        else:
            if path.read_text(encoding="utf-8") != spec.file:
                yield wrong("workspace", f"{path} has another content than the launcher's pod has written", mend)
                return
            path.write_text("", encoding="utf-8")
            path.unlink()
            yield right("workspace", f"read, changed and deleted by a worker's image ({who})")
    except OSError as error:
        verb = "written" if spec.write else "read and changed"
        yield wrong("workspace", f"{path} cannot be {verb} by {who}: {error.strerror}", mend)
        return
    if spec.write:
        yield check_space("workspace", spec.workspace, spec.needed_bytes)


def check_space(subject: str, folder: Path, needed: int | None, user: str = "the recipe") -> Finding:
    """Compare the free space of a folder's file system with the bytes that `user` needs; None: not known."""
    free = shutil.disk_usage(folder).free
    text = f"{_size(free)} free in {folder}"
    if needed is None:
        return right(subject, text)
    text += f", {user} needs {_size(needed)}"
    if free < needed:
        mend = "enlarge the volume, or free space: steerlm store gc STORE --delete; or lower keep in the recipe"
        return wrong(subject, text, mend)
    return right(subject, text)


def check_rights(cluster: Cluster, namespace: str) -> Finding:
    """Ask whether this pod's service account has every right of the launcher."""
    wanted = [(access, namespace) for access in single(LAUNCHER)]
    wanted += [(access, "") for access in single(LAUNCHER_CLUSTER)]
    missing = [str(access) for access, where in wanted if not allowed(cluster, access, where)]
    if missing:
        return wrong("rbac", f"the launcher's service account may not {', '.join(missing)}", MANIFESTS)
    return right("rbac", f"the launcher's service account has its {len(wanted)} rights")


def check_store(uri: str) -> Finding:
    """Write an object into the store and delete it; a local folder that is not there yet must be one to be made."""
    where = "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and S3_ENDPOINT"
    mend = f"set {where} in a Secret of cluster.launcher.secrets (docs/kubernetes.md, Secrets), or make the bucket"
    if not is_remote(uri):
        mend = "choose another folder: store in the profile"
    try:
        store = Store(uri)
        if store.remote is None:
            with tempfile.TemporaryFile(dir=existing(store.root)) as file:
                file.write(b"doctor")
        else:
            name = f".doctor/{uuid.uuid4().hex}"
            with tempfile.NamedTemporaryFile() as file:
                store.remote.upload(Path(file.name), name)
            store.remote.at(name).remove("")
    except (SteerLMError, OSError) as error:
        return wrong("store", first_line(error), mend)
    return right("store", f"{store.uri} is writable")


def check_mlflow(uri: str | None) -> Finding:
    """Ask a tracking server for its health; a file, and None, which is one beside the store's local copy, need none."""
    mend = "set MLFLOW_TRACKING_URI in a Secret of cluster.launcher.secrets, or tracking.uri in the profile"
    if uri is None or not uri.startswith(("http://", "https://")):
        return right("mlflow", f"a file, {uri or 'mlflow.db in the local folder of the store'}")
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=SECONDS) as response:
            response.read()
    except urllib.error.HTTPError as error:
        return wrong("mlflow", f"{uri} answers {error.code} {error.reason}", mend)
    except (OSError, ValueError) as error:
        return wrong("mlflow", f"{uri} does not answer: {getattr(error, 'reason', error)}", mend)
    return right("mlflow", f"{uri} answers")


def existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    return next(place for place in (folder, *folder.parents) if place.exists())


def _size(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB" if count >= 2**29 else f"{count / 2**20:,.1f} MiB"


def main(arguments: Sequence[str]) -> None:
    """Print the findings on what the argument names, as one line."""
    sys.stdout.write(to_json(probe(ProbeSpec.model_validate_json(arguments[0]))) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
