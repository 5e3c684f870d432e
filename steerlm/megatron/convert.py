# SPDX-License-Identifier: Apache-2.0
"""Hugging Face folders to Megatron distributed checkpoints and back, bit for bit (`steerlm model import|export`).

Training does not pass through here: it reads and writes Hugging Face folders itself. Every process holds its share of
the layout; a checkpoint is readable in any other.
"""

import shutil
from pathlib import Path

import torch

from steerlm.errors import ModelError
from steerlm.files import write_json
from steerlm.megatron import checkpoint, distributed_checkpoint, hf_io, parallel
from steerlm.megatron import model as models
from steerlm.megatron.checkpoint_folder import describe
from steerlm.megatron.mapping import SCORE, Parameter, Slice, parameters
from steerlm.models.shape import ModelShape
from steerlm.training.layout import LayoutSettings

COMPANIONS = "huggingface"
"""Where a checkpoint keeps the folder's other files: config, tokenizer, templates, card."""


def import_hf(folder: Path, out: Path, layout: LayoutSettings | None = None) -> None:
    """Write the checkpoint `out` of the weights in `folder`, in their own dtype, with the folder's other files.

    Collective over the layout's processes. Raises `ModelError` for a folder that is not a Llama's, or whose weights
    are not all of one dtype.
    """
    shape = ModelShape.from_folder(folder)
    source = _OneType(folder, f"{shape.family.weights.final_norm}.weight")
    model, own = _build(shape, source.outputs, source.dtype, layout or LayoutSettings())
    hf_io.load(model, own, source, source)
    source.folder.close()
    distributed_checkpoint.save_weights(out, model, shape, lambda: _copy_companions(folder, out / COMPANIONS))


def export_hf(folder: Path, out: Path, layout: LayoutSettings | None = None) -> None:
    """Write the Hugging Face folder `out` of the checkpoint `folder`: one that `import_hf` made, or a training job's.

    Of a training job's there is no tokenizer to hand on: the folder has weights and `config.json` alone. Collective.
    Raises `TrainingError` if the checkpoint is not complete.
    """
    described = describe(folder)
    shape, outputs = ModelShape(**described["shape"]), described["outputs"]
    model, own = _build(shape, outputs, getattr(torch, described["dtype"]), layout or LayoutSettings())
    checkpoint.load_weights(folder, model, own, shape)
    hf_io.write(model, own, shape, parallel.place(), outputs, out)
    if parallel.is_chief():
        if (folder / COMPANIONS).is_dir():
            _copy_companions(folder / COMPANIONS, out)
        else:
            write_json(out / "config.json", _config(shape, outputs, described["dtype"]))


def _build(
    shape: ModelShape, outputs: int | None, dtype: torch.dtype, layout: LayoutSettings
) -> tuple[models.Llama, list[Parameter]]:
    layout.check_fits(shape)
    parallel.initialize(layout, seed=0)
    model = models.build(shape, models.configure(shape, layout, dtype), "sdpa", outputs)
    return model, parameters(shape, parallel.place(), outputs)


class _OneType:
    """A folder's weights, of which none may have to be converted. `outputs`: of its reward head, or None."""

    def __init__(self, folder: Path, first: str) -> None:
        self.folder, self.first = hf_io.Folder(folder), first
        self.dtype = self.folder.dtype(first)
        self.outputs = self.folder.shape(SCORE)[0] if SCORE in self.folder else None

    def read(self, part: Slice) -> torch.Tensor:
        tensor = self.folder.read(part)
        if tensor.dtype != self.dtype:
            raise ModelError(
                f"{self.folder.path}: {part.name} is {tensor.dtype}, {self.first} {self.dtype}; "
                "a checkpoint keeps weights of one dtype, save the model in one first"
            )
        return tensor


def _copy_companions(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    weights = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack"}
    for path in sorted(source.iterdir()):
        if path.is_file() and path.suffix not in weights and not path.name.endswith(".index.json"):
            shutil.copyfile(path, target / path.name)


def _config(shape: ModelShape, outputs: int | None, dtype: str) -> dict[str, object]:
    config = {**shape.to_config(reward=outputs is not None), "dtype": dtype}
    if outputs is None:
        return config
    labels = {str(i): f"LABEL_{i}" for i in range(outputs)}
    ids = {name: int(i) for i, name in labels.items()}
    return config | {"id2label": labels, "label2id": ids, "problem_type": "regression"}
