# SPDX-License-Identifier: Apache-2.0
"""The script of GPU measurements, held by a dry run on the CPU: it is to work the first time that there is a GPU."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from steerlm.training.config import TextSettings
from steerlm.training.footprint import memory

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "gpu.py"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu", module)  # dataclasses look there
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    monkeypatch.setenv("PYTHONPATH", "")
    return module


def _rows(page: str, title: str) -> list[list[str]]:
    section = page.split(f"## {title}\n")[1].split("\n## ")[0]
    return [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")][2:]


@pytest.mark.long
def test_a_dry_run(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--tiny", "--page", str(tmp_path / "page.md")])
    gpu.main()
    page = (tmp_path / "page.md").read_text()
    assert "dry run on a CPU" in page and f"torch {torch.__version__}, megatron-core 0.16.1" in page
    parity = _rows(page, "Parity")
    assert len(parity) == 2
    for name, loss, norm, gradient, tensor, result in parity:
        assert "TP2 SP" in name and result == "ok" and tensor.startswith("model.layers.")
        assert float(loss) < 1e-5 and float(norm) < 1e-5 and 0 < float(gradient) < 1e-5
    sft, reward = _rows(page, "Speed")
    assert sft[0] == "tiny SFT, DP2, sdpa bf16" and reward[0] == "tiny reward, one process, sdpa bf16"
    assert all(re.fullmatch(r"[\d.]+", of[column]) for of in (sft, reward) for column in (1, 7, 8, 9, 10))
    assert not sft[6] and float(reward[6].replace(",", "")) > 0


def test_another_gradient_is_a_failure(gpu: ModuleType, tmp_path: Path) -> None:
    reference, *others = gpu.parity_tasks("tiny", [{"devices": 2}] * 3, ["sdpa"], ["fp32"])
    reference.result = {"losses": [2.0], "norms": [1.0]}
    for task, norm in zip(others, (1.0001, 1.1, float("nan")), strict=False):
        task.result, task.folder = {"losses": [2.0], "norms": [norm]}, tmp_path
    gpu.compare([reference, *others[:3]])
    assert [bool(task.error) for task in others[:3]] == [False, True, True]
    for task in others[:3]:
        task.error = ""
    reference.error = "out of memory"
    gpu.compare([reference, *others[:3]])
    assert all(task.error for task in others[:3])


def test_as_many_layers_as_fit(gpu: ModuleType) -> None:
    limit = 0.85 * 80 * 2**30
    tasks = {(task.model, task.name): task for task in gpu.gpu_tasks(1, 80 * 2**30) if task.kind == "speed"}
    for (model, _), task in tasks.items():
        needed = memory(task.shape, TextSettings(max_steps=1, window=task.row_tokens), task.place, task.outputs).total
        assert needed <= limit
        if model == "1B":
            assert task.shape == gpu.SHAPES["1B"] and not task.note
        else:
            assert 8 < task.shape.num_hidden_layers < 32 and f"{task.shape.num_hidden_layers} of 32 layers" in task.note
    layouts = {task.name.split(", ")[1] for task in gpu.gpu_tasks(8, 80 * 2**30)}
    assert layouts == {"one process", "DP2", "TP2 SP", "PP2", "TP2 SP PP2", "DP8", "TP2 SP DP4"}


def test_without_a_gpu_it_says_so(gpu: ModuleType) -> None:
    with pytest.raises(SystemExit, match="no GPU was found: run this where there is one, or with --tiny"):
        gpu.main()
