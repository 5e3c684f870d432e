# SPDX-License-Identifier: Apache-2.0
"""The identity of a reward model: a digest that is equal for the same model at the same precision.

It is computed from a loaded model, or from its folder, of which two small tensors are read. The latter needs no torch:
a launcher that has none plans the work of jobs by it.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from steerlm.errors import ModelError
from steerlm.inference.config import Precision
from steerlm.models.weights import StoredTensor, read_bytes, stored_tensors

FILES = ("config.json", "tokenizer.json", "tokenizer.model")
WEIGHTS = ("score.weight", "model.norm.weight")
TORCH_NAMES = {"fp32": "torch.float32", "bf16": "torch.bfloat16"}
Floats = npt.NDArray[np.float32]


def model_identity(folder: Path, dtype: str, weights: Sequence[Floats]) -> str:
    """Return a digest of tokenizer, configuration, precision, head and final norm.

    The other weights, which may be 100 GB, are left out: every training step changes the head and the norm too.

    Args:
        folder: The model folder.
        dtype: The precision by its name in torch, such as `torch.bfloat16`.
        weights: Head and norm, in this order, at that precision.
    """
    digest = hashlib.sha256(dtype.encode())
    for name in FILES:
        path = folder / name
        digest.update(path.read_bytes() if path.exists() else b"-")
    for weight in weights:
        digest.update(np.ascontiguousarray(weight, dtype=np.float32).tobytes())
    return digest.hexdigest()


def folder_identity(folder: Path, precision: Literal["fp32", "bf16"]) -> str:
    """Return the `model_identity` of the folder's reward model at a precision, without loading it."""
    stored = stored_tensors(folder)
    weights = [_floats(folder, _stored(folder, name, stored)) for name in WEIGHTS]
    if precision == "bf16":
        weights = [_rounded_to_bf16(weight) for weight in weights]
    return model_identity(folder, TORCH_NAMES[precision], weights)


def resolve_precision(
    folder: Path, precision: Precision, *, accelerator: bool | None = None
) -> Literal["fp32", "bf16"]:
    """Resolve `auto`: the folder's precision on an accelerator, fp32 without one.

    `accelerator`: whether the model will run on one; None: whether this machine has one. Raises `ModelError` if the
    folder's weights are neither fp32 nor bf16.
    """
    if precision != "auto":
        return precision
    if not (_accelerator_here() if accelerator is None else accelerator):
        return "fp32"
    dtype = _stored(folder, WEIGHTS[0], stored_tensors(folder)).dtype
    if dtype not in ("F32", "BF16"):
        raise ModelError(f"{folder}: its weights are {dtype}; set the precision, fp32 or bf16 (annotate.dtype)")
    return "fp32" if dtype == "F32" else "bf16"


def _accelerator_here() -> bool:
    import torch

    return torch.accelerator.current_accelerator(check_available=True) is not None


def _stored(folder: Path, name: str, stored: dict[str, StoredTensor]) -> StoredTensor:
    if name not in stored:
        raise ModelError(f"{folder}: weight {name} is missing; a reward model folder was expected")
    return stored[name]


def _floats(folder: Path, tensor: StoredTensor) -> Floats:
    try:
        data = read_bytes(tensor)
    except OSError as error:
        raise ModelError(f"{folder}: {tensor.name} cannot be read ({error})") from None
    if tensor.dtype == "BF16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    kinds = {"F32": "<f4", "F16": "<f2"}
    if tensor.dtype not in kinds:
        raise ModelError(f"{folder}: {tensor.name} is {tensor.dtype}; F32, BF16 or F16 was expected")
    return np.frombuffer(data, kinds[tensor.dtype]).astype(np.float32)


def _rounded_to_bf16(values: Floats) -> Floats:
    """Round to the nearest bf16 value, to the even one between two, as torch does; finite values only."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
