# SPDX-License-Identifier: Apache-2.0
"""The environment that training processes start with."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from steerlm.jobs.backend import Job
from steerlm.jobs.environment import VARIABLES, added_to, variables
from steerlm.jobs.local import LocalBackend
from steerlm.training.layout import LayoutSettings
from tests.conftest import ROOT


def test_variables_depend_on_the_layout() -> None:
    alone = variables(LayoutSettings())
    assert "CUDA_DEVICE_MAX_CONNECTIONS" not in alone and "TORCH_NCCL_ASYNC_ERROR_HANDLING" not in alone
    assert variables(LayoutSettings(nodes=2, devices=8))["TORCH_NCCL_ASYNC_ERROR_HANDLING"] == "3"
    assert variables(LayoutSettings(devices=8, tensor=8))["CUDA_DEVICE_MAX_CONNECTIONS"] == "1"
    assert all(variable.reason for variable in VARIABLES)


def test_values_that_the_user_set_are_kept() -> None:
    defaults = variables(LayoutSettings(devices=2, tensor=2))
    assert added_to({}, defaults) == defaults
    assert added_to({"CUDA_DEVICE_MAX_CONNECTIONS": "32"}, defaults)["CUDA_DEVICE_MAX_CONNECTIONS"] == "32"
    user = {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:512"}
    assert "PYTORCH_ALLOC_CONF" not in added_to(user, defaults)  # which torch would prefer to the user's


def test_workers_start_with_the_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    environment = variables(LayoutSettings(devices=2, tensor=2))
    backend = LocalBackend(names=tmp_path / "names")
    job = Job("e", "tests.jobs.environment_worker", {}, tmp_path, tmp_path / "log", environment=environment, threads=3)
    name = backend.ensure(job)
    backend._children[name].wait(60)
    lines = dict(line.split("=", 1) for line in (tmp_path / "log").read_text().splitlines() if "=" in line)
    assert lines["PYTORCH_ALLOC_CONF"] == "expandable_segments:True" and lines["CUDA_DEVICE_MAX_CONNECTIONS"] == "1"
    assert lines["TOKENIZERS_PARALLELISM"] == "true" and lines["OMP_NUM_THREADS"] == "3"


def test_torch_reads_the_allocator_settings_by_that_name() -> None:
    program = "import torch; print(torch._C._accelerator_getAllocatorSettings())"
    environment = {**os.environ, "PYTORCH_ALLOC_CONF": "expandable_segments:True"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "expandable_segments:True", done.stderr
