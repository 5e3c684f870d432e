# SPDX-License-Identifier: Apache-2.0
"""What runs in the launcher's image, which has no torch: every module but those that compute or serve."""

import subprocess
import sys

COMPUTING = (
    "inference.engine",
    "inference.generator",
    "inference.loading",
    "jobs.kubernetes.agent",
    "megatron",
    "serving",
    "training.tensors",
)
"""Modules and packages that torch, or the server's packages, are imported by."""
WALK = """
import importlib, pkgutil, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "megatron", "fastapi", "uvicorn", "psutil"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
computing = sys.argv[1].split()
import steerlm
imported = 0
for module in pkgutil.walk_packages(steerlm.__path__, "steerlm.", onerror=lambda name: None):
    name = module.name.removeprefix("steerlm.")
    if name.endswith("__main__") or any(name == one or name.startswith(f"{one}.") for one in computing):
        continue
    importlib.import_module(module.name)
    imported += 1
print(imported)
"""


def test_every_other_module_imports_without_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WALK, " ".join(COMPUTING)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 150
