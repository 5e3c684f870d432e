# SPDX-License-Identifier: Apache-2.0
"""The folders of a pod that no other pod reads: home, caches, temporary files, on a volume of the pod's own.

The image's file system may be read-only, and the pod's user may be a number without a passwd entry, whose home would be
the root folder. Caches on the workspace would be shared by all nodes, which compile at the same time.
"""

import os
from collections.abc import MutableMapping
from pathlib import Path

SCRATCH = "STEERLM_SCRATCH"
"""Environment variable that names the folder of the pod's own volume."""
DEFAULT = "/tmp/steerlm"
UMASK = 0o002
"""Pods share the workspace by their group."""
CACHES = {
    "HF_HOME": "huggingface",
    "MPLCONFIGDIR": "matplotlib",
    "TMPDIR": "tmp",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
    "XDG_CACHE_HOME": "cache",
}
"""Environment variables of libraries' caches, and the folder of each in the scratch folder."""


def scratch_folder() -> Path:
    """Return the folder of the pod's own volume."""
    return Path(os.environ.get(SCRATCH) or DEFAULT)


def use_scratch(environment: MutableMapping[str, str]) -> None:
    """Set home, caches and umask of this process and its children. Caches that are set already are kept."""
    os.umask(UMASK)
    scratch = scratch_folder()
    environment["HOME"] = str(scratch / "home")
    for name, folder in CACHES.items():
        environment.setdefault(name, str(scratch / folder))
    for name in ("HOME", *CACHES):
        Path(environment[name]).mkdir(parents=True, exist_ok=True)
    environment.setdefault("HF_HUB_OFFLINE", "1")
    environment.setdefault("USER", "steerlm")  # asked by torch's compiler, which fails on a number without a name
