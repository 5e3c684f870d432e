# SPDX-License-Identifier: Apache-2.0
"""The CPU layer: megatron's version is the one it was traced for, and nothing else in the process notices it."""

import ast
from pathlib import Path
from unittest.mock import patch

import megatron.core
import pytest
import torch
from transformers import LlamaForCausalLM

import steerlm
from steerlm.errors import InputError
from steerlm.megatron import device, fixes
from tests.megatron.forked import one
from tests.megatron.material import GQA, transformers_folder


def test_the_version_is_the_one_everything_here_was_run_on() -> None:
    fixes.check_version()
    with (
        patch.object(megatron.core, "__version__", "0.17.0"),
        pytest.raises(InputError, match="is installed"),
    ):
        fixes.check_version()


def test_nothing_else_says_cuda() -> None:
    root = Path(steerlm.__file__).parent
    for path in sorted(root.rglob("*.py")):
        if path == root / "megatron" / "device.py":
            continue
        names = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        assert "cuda" not in names, path


def _beside(folder: Path) -> tuple[list[float], bool]:
    device.enable_cpu()
    device.enable_cpu()
    model = LlamaForCausalLM.from_pretrained(folder)  # made on the meta device, then filled
    half = torch.zeros(1, dtype=torch.bfloat16).type() == "torch.BFloat16Tensor"
    return model.model.rotary_emb.inv_freq.tolist(), half and torch.zeros(2, device="meta").is_meta


def test_transformers_still_loads_models(tmp_path: Path) -> None:
    folder = transformers_folder(tmp_path, GQA)
    frequencies, rest = one(_beside, folder)
    assert rest and frequencies == pytest.approx([1, 0.1, 0.01, 0.001])
    assert not hasattr(torch.empty, "_redirected")  # it stayed in the fork
