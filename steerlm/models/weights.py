# SPDX-License-Identifier: Apache-2.0
"""Which weights a model folder holds: the one answer for fetching, training, annotation and serving. Torch-free.

As in transformers 5: `model.safetensors` if there is one, else the files that the index names, whatever tensors they
hold. Other safetensors files (Mistral's `consolidated.safetensors`) are not the model's. A folder in which engines
would choose differently is refused.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerlm.errors import InputError, ModelError, first_line

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
WEIGHTS = "*.safetensors"
ADAPTER = "adapter_config.json"
CHUNK = 1 << 24


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a safetensors file: its name, shape and dtype as they stand there (`BF16`)."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str


def weight_files(place: str | Path, names: Collection[str], index: Mapping[str, Any] | None) -> list[str]:
    """Return the names of the files that hold a model's weights.

    Args:
        place: The model's folder or address, for messages.
        names: All files there.
        index: Content of `model.safetensors.index.json`, if it is there.

    Raises:
        ModelError: There are none, some are missing, or two sets of weights lie there.
    """
    if ADAPTER in names:
        raise ModelError(
            f"{place}: holds an adapter ({ADAPTER}), which transformers would add to the weights and other engines "
            "would not; merge it (peft: merge_and_unload, save_pretrained) and take the merged folder"
        )
    named = None if index is None else _named(place, index)
    if SINGLE in names:
        if others := sorted(set(named or ()) & set(names) - {SINGLE}):
            raise ModelError(
                f"{place}: holds weights twice, {SINGLE} and those that {INDEX} names ({others[0]}, ...); engines "
                f"choose differently: delete {SINGLE}, or {INDEX} and the files that it names"
            )
        return [SINGLE]
    if named is None:
        found = sorted(name for name in names if name.endswith(".safetensors"))
        beside = f"; {found[0]} alone does not say that it is the whole model" if found else ""
        raise ModelError(
            f"{place}: no weights: {SINGLE} or {INDEX} was expected{beside}. "
            "Pickled weights (*.bin, *.pt) are not read: save the model as safetensors"
        )
    if absent := [name for name in named if name not in names]:
        raise ModelError(f"{place}: {absent[0]} is missing, which {INDEX} names")
    return named


def _named(place: str | Path, index: Mapping[str, Any]) -> list[str]:
    try:
        named = sorted({str(name) for name in index["weight_map"].values()})
    except (KeyError, TypeError, AttributeError):
        named = []
    if not named or any("/" in name for name in named):
        raise ModelError(f"{place}: {INDEX} is not an index of weights")
    return named


def folder_files(folder: Path) -> list[Path]:
    """Return the weight files of a folder. Raises `ModelError` as `weight_files`."""
    names = {path.name for path in folder.iterdir() if path.is_file()} if folder.is_dir() else set()
    return [folder / name for name in weight_files(folder, names, read_index(folder))]


def read_index(folder: Path) -> dict[str, Any] | None:
    """Return the content of a folder's index of weights, or None. Raises `ModelError` if it is not JSON."""
    path = folder / INDEX
    if not path.is_file():
        return None
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path}: not an index of weights ({first_line(error)})") from None
    return content if isinstance(content, dict) else {}


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Return all tensors of a folder's weights by name, from the headers of its files.

    Raises:
        ModelError: As `weight_files`; a file is damaged, or two files hold a tensor of the same name.
    """
    tensors: dict[str, StoredTensor] = {}
    for path in folder_files(folder):
        for name, tensor in _header(path).items():
            if name in tensors:
                raise ModelError(f"{folder}: {name} is in {tensors[name].file.name} and in {path.name}")
            tensors[name] = tensor
    return tensors


def _header(path: Path) -> dict[str, StoredTensor]:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise InputError("weights need safetensors: pip install 'steerlm[models]'") from None
    try:
        with safe_open(path, framework="numpy") as file:
            views = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            return {n: StoredTensor(path, n, tuple(v.get_shape()), v.get_dtype()) for n, v in views.items()}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: cannot be read ({first_line(error)}); fetch the model again") from None


def equal_tensors(one: StoredTensor, other: StoredTensor) -> bool:
    """Return whether two tensors have the same shape, dtype and bytes."""
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    with open(one.file, "rb") as first, open(other.file, "rb") as second:
        left = _seek(first, one.name)
        _seek(second, other.name)
        while left:
            size = min(left, CHUNK)
            if first.read(size) != second.read(size):
                return False
            left -= size
    return True


def read_bytes(tensor: StoredTensor) -> bytes:
    """Return a tensor's data as it is in its file: row-major, little-endian."""
    with open(tensor.file, "rb") as file:
        return file.read(_seek(file, tensor.name))


def _seek(file: Any, name: str) -> int:
    """Move to the first byte of a tensor and return its size. Format: u64 length, JSON header, data."""
    length = int.from_bytes(file.read(8), "little")
    start, end = json.loads(file.read(length))[name]["data_offsets"]
    file.seek(8 + length + start)
    return int(end - start)
