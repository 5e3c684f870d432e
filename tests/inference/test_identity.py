# SPDX-License-Identifier: Apache-2.0
"""A model's identity is the same from its folder as from the loaded model, and another at another precision."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from steerlm.errors import ModelError
from steerlm.inference.identity import _rounded_to_bf16, folder_identity, resolve_precision
from steerlm.inference.scorer import TransformersScorer


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_folder_tells_what_the_loaded_model_is(precision: Any, reward_folder: Path) -> None:
    found = folder_identity(reward_folder, precision)
    assert found == TransformersScorer(reward_folder, dtype=precision).identity
    assert found != folder_identity(reward_folder, "bf16" if precision == "fp32" else "fp32")


def test_weights_in_several_files_and_weights_that_are_missing(reward_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "reward"
    shutil.copytree(reward_folder, folder)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: f"model-{1 + (name == 'score.weight')}.safetensors" for name in weights}
    for file in set(places.values()):
        save_file({name: weights[name] for name in weights if places[name] == file}, folder / file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    assert folder_identity(folder, "fp32") == folder_identity(reward_folder, "fp32")
    index.write_text("{}")
    with pytest.raises(ModelError, match=r"is not an index of weights"):
        folder_identity(folder, "fp32")
    (folder / places["score.weight"]).unlink()
    index.write_text(json.dumps({"weight_map": {n: f for n, f in places.items() if n != "score.weight"}}))
    with pytest.raises(ModelError, match=r"weight score\.weight is missing"):
        folder_identity(folder, "fp32")


def test_rounding_is_torchs(tmp_path: Path) -> None:
    values = torch.randn(4096, dtype=torch.float32) * 10.0 ** torch.randint(-30, 30, (4096,))
    assert np.array_equal(_rounded_to_bf16(values.numpy()), values.bfloat16().float().numpy())


def test_auto_is_the_folders_own_precision_on_an_accelerator(
    reward_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert resolve_precision(reward_folder, "auto") == "fp32"
    assert resolve_precision(reward_folder, "bf16") == "bf16"
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda"))
    for dtype, precision in ((torch.float32, "fp32"), (torch.bfloat16, "bf16")):
        save_file({"score.weight": torch.zeros(1, 1, dtype=dtype)}, tmp_path / "model.safetensors")
        assert resolve_precision(tmp_path, "auto") == precision
    save_file({"score.weight": torch.zeros(1, 1, dtype=torch.float16)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"are F16; set the precision"):
        resolve_precision(tmp_path, "auto")
