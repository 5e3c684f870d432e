# SPDX-License-Identifier: Apache-2.0
"""The identity of a reward model: a digest that is equal for the same model at the same precision.

It is computed from a loaded model, or from its folder, of which two small tensors are read.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from steerlm.errors import ModelError
from steerlm.inference.config import Precision
from steerlm.models.weights import stored_tensors

if TYPE_CHECKING:
    import torch

FILES = ("config.json", "tokenizer.json", "tokenizer.model")
WEIGHTS = ("score.weight", "model.norm.weight")


def model_identity(folder: Path, dtype: "torch.dtype", weights: Sequence["torch.Tensor"]) -> str:
    """Return a digest of tokenizer, configuration, precision, head and final norm (`weights`, in this order).

    The other weights, which may be 100 GB, are left out: every training step changes the head and the norm too.
    """
    digest = hashlib.sha256(str(dtype).encode())
    for name in FILES:
        path = folder / name
        digest.update(path.read_bytes() if path.exists() else b"-")
    for weight in weights:
        digest.update(weight.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def folder_identity(folder: Path, precision: Literal["fp32", "bf16"]) -> str:
    """Return the `model_identity` of the folder's reward model at a precision, without loading it."""
    import torch

    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    return model_identity(folder, dtype, [_read(folder, name).to(dtype) for name in WEIGHTS])


def resolve_precision(folder: Path, precision: Precision) -> Literal["fp32", "bf16"]:
    """Resolve `auto` on this machine. Raises `ModelError` if the folder's weights are neither fp32 nor bf16."""
    import torch

    if precision != "auto":
        return precision
    if torch.accelerator.current_accelerator(check_available=True) is None:
        return "fp32"
    dtype = _read(folder, WEIGHTS[0]).dtype
    if dtype not in (torch.float32, torch.bfloat16):
        raise ModelError(f"{folder}: its weights are {dtype}; set the precision, fp32 or bf16 (annotate.dtype)")
    return "fp32" if dtype == torch.float32 else "bf16"


def _read(folder: Path, name: str) -> "torch.Tensor":
    from safetensors import SafetensorError, safe_open

    stored = stored_tensors(folder).get(name)
    if stored is None:
        raise ModelError(f"{folder}: weight {name} is missing; a reward model folder was expected")
    try:
        with safe_open(stored.file, framework="pt") as tensors:
            weight: torch.Tensor = tensors.get_tensor(name)
            return weight
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{folder}: {name} cannot be read ({error})") from None
