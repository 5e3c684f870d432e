# SPDX-License-Identifier: Apache-2.0
"""What runs in the images without torch: every module but those that compute; the gateway's serves there too."""

import subprocess
import sys

import pytest

from tests.absent import without

COMPUTING = (
    "inference.engine.continuous_batching",
    "inference.engine.engine",
    "inference.engine.paged_attention",
    "inference.engine.sampling",
    "inference.engine.token_selector",
    "inference.generator",
    "inference.loading",
    "jobs.kubernetes.agent",
    "megatron",
    "serving.in_process",
    "serving.local",
    "training.tensors",
)
"""Modules and packages that torch is imported by."""
SERVING = ("inference.engine.json_schema", "serving")
"""Those that the server's packages are imported by."""
WALK = """
import importlib, pkgutil, sys, traceback
import steerlm

skipped = sys.argv[1].split()
imported = 0
for module in pkgutil.walk_packages(steerlm.__path__, "steerlm.", onerror=lambda name: None):
    name = module.name.removeprefix("steerlm.")
    if name.endswith("__main__") or any(name == one or name.startswith(f"{one}.") for one in skipped):
        continue
    try:
        importlib.import_module(module.name)
    except ImportError as error:
        # Other than importlib's own.
        place = [one for one in traceback.extract_tb(error.__traceback__) if one.filename.endswith(".py")][-1]
        here = f"{place.filename}:{place.lineno}"
        sys.exit(f"{here} needs {error.name}: import it where it is used, or name the module in COMPUTING or SERVING")
    imported += 1
print(imported)
"""


@pytest.mark.parametrize(
    ("absent", "skipped", "least"),
    [
        (("torch", "megatron"), COMPUTING, 250),
        (("torch", "megatron", "fastapi", "uvicorn", "httpx", "llguidance", "psutil"), (*COMPUTING, *SERVING), 200),
    ],
    ids=["gateway", "launcher"],
)
def test_every_other_module_imports_without_torch(
    absent: tuple[str, ...], skipped: tuple[str, ...], least: int
) -> None:
    walk = [sys.executable, "-c", WALK, " ".join(skipped)]
    done = subprocess.run(walk, env=without(*absent), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > least


@pytest.mark.parametrize("module", COMPUTING)
def test_what_computes_does_not(module: str) -> None:
    """Else the list is too long."""
    command = [sys.executable, "-c", f"import steerlm.{module}"]
    done = subprocess.run(command, env=without("torch"), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "torch" in done.stderr
