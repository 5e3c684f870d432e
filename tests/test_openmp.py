# SPDX-License-Identifier: Apache-2.0
"""Every process that computes has OpenMP's wait policy in its environment before it imports torch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

SPY = """
import atexit, importlib.abc, os, sys

def note():
    with open(os.environ["POLICIES"], "a") as file:
        file.write(str(os.environ.get("OMP_WAIT_POLICY")) + chr(10))

class Spy(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            note()
            os._exit(0)

if "torch.distributed.run" not in sys.orig_argv:  # torchrun does not compute
    sys.meta_path.insert(0, Spy())
    atexit.register(note)
"""
"""Is run by Python as it starts; notes the policy when torch is imported, or at the end of a worker without a spec."""

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
KINDS = {
    "the command": ["-m", "steerlm.cli", "serve", "generate", "missing"],
    "a server": ["-c", "import steerlm.serving.run"],
    "a training's workers": [*TORCHRUN, "-m", "steerlm.trainjob.worker", "missing.json"],
    "a job's worker": ["-m", "steerlm.jobs.worker", "folder", "steerlm.trainjob.worker", "missing.json"],
    "an annotation's worker": ["-m", "steerlm.annotation.worker", "missing.json"],
    "an evaluation's worker": ["-m", "steerlm.evaluation.worker", "missing.json"],
    "a component": ["-c", "from steerlm.pipeline.step import run_step; import torch"],
    "a demo": ["-c", "import demos.synthetic, torch"],
    "a notebook": ["-c", "from steerlm.inference.scorer import TransformersScorer; import torch"],
    "the installed script": [],
    **{
        path.name: [str(path), "--help"]
        for path in sorted((ROOT / "benchmarks").glob("*.py"))
        if "\nimport torch\n" in path.read_text() and "__main__" in path.read_text()
    },
}


def policies(arguments: list[str], folder: Path, **environment: str) -> list[str]:
    """The policy of each process of a command."""
    (folder / "sitecustomize.py").write_text(SPY)
    record = folder / "policies"
    command = [sys.executable, *arguments]
    if not arguments:
        command = [str(Path(sys.executable).with_name("steerlm")), "serve", "generate", "missing"]
    own = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    own |= {"PYTHONPATH": f"{folder}:{ROOT}", "POLICIES": str(record)}
    subprocess.run(command, env=own | environment, cwd=folder, check=False, capture_output=True)
    return record.read_text().splitlines()


@pytest.mark.parametrize("kind", KINDS)
def test_the_policy_is_set_before_torch_is_imported(kind: str, tmp_path: Path) -> None:
    assert set(policies(KINDS[kind], tmp_path)) == {"PASSIVE"}


@pytest.mark.parametrize("kind", ["the command", "a training's workers", "a component"])
def test_the_users_policy_is_kept(kind: str, tmp_path: Path) -> None:
    assert set(policies(KINDS[kind], tmp_path, OMP_WAIT_POLICY="ACTIVE")) == {"ACTIVE"}
