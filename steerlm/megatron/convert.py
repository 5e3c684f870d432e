# SPDX-License-Identifier: Apache-2.0
"""Convert Hugging Face folders to Megatron checkpoints and back, bit for bit (`steerlm model import|export`).

Training does not use this: it reads and writes Hugging Face folders itself. Every process holds its part of the model;
a checkpoint can be read in any other layout.
"""

import shutil
from pathlib import Path

import torch

from steerlm.errors import InputError, ModelError
from steerlm.files import write_json
from steerlm.megatron import checkpoint, distributed_checkpoint, hf_io, parallel
from steerlm.megatron import model as models
from steerlm.megatron.checkpoint_folder import describe
from steerlm.megatron.mapping import Parameter, Slice, parameters
from steerlm.models.nemo import refuse_nemo
from steerlm.models.shape import ModelShape
from steerlm.models.tensors import SCORE
from steerlm.models.weights import SINGLE
from steerlm.training.layout import LayoutSettings

COMPANIONS = "huggingface"
"""Subfolder of a checkpoint with the other files of the model folder: config, tokenizer, templates, card."""


def import_hf(folder: Path, out: Path, layout: LayoutSettings | None = None) -> None:
    """Write the checkpoint `out` with the weights of `folder`, in their own dtype, and the folder's other files.

    Collective over the layout's processes.

    Raises:
        ModelError: The folder's model is not supported, or its weights have several dtypes.
    """
    shape = ModelShape.from_folder(folder)
    source = _SingleDtypeSource(folder, shape)
    model, own = _build(shape, source.outputs, source.dtype, layout or LayoutSettings())
    hf_io.load(model, own, source, source)
    source.folder.close()
    distributed_checkpoint.save_weights(out, model, shape, lambda: _copy_companions(folder, out / COMPANIONS))


def export_hf(folder: Path, out: Path, layout: LayoutSettings | None = None) -> None:
    """Write the checkpoint `folder`, made by `import_hf` or by training, as the Hugging Face folder `out`.

    A training checkpoint has no tokenizer: the folder then has only weights and `config.json`. Collective.

    Raises:
        TrainingError: The checkpoint is not complete.
        InputError: `out` holds a model of another origin, or `folder` is not a checkpoint.
    """
    refuse_nemo(folder)
    if (out / SINGLE).exists():
        raise InputError(f"{out}: holds a model already; name a new folder")
    description = describe(folder)
    shape, outputs = ModelShape(**description["shape"]), description["outputs"]
    model, own = _build(shape, outputs, getattr(torch, description["dtype"]), layout or LayoutSettings())
    checkpoint.load_weights(folder, model, own, shape)
    hf_io.write(model, own, shape, parallel.model_parallel_rank(), outputs, out)
    if parallel.is_main_rank():
        if (folder / COMPANIONS).is_dir():
            _copy_companions(folder / COMPANIONS, out)
        else:
            write_json(out / "config.json", _config(shape, outputs, description["dtype"]))


def _build(
    shape: ModelShape, outputs: int | None, dtype: torch.dtype, layout: LayoutSettings
) -> tuple[models.ModelStage, list[Parameter]]:
    layout.check_fits(shape)
    parallel.initialize(layout, seed=0)
    model = models.build(shape, models.configure(shape, layout, dtype), "sdpa", outputs)
    return model, parameters(shape, parallel.model_parallel_rank(), outputs)


class _SingleDtypeSource:
    """The weights of a folder, which must all have one dtype: that of the final norm.

    `outputs`: of the reward head, or None.
    """

    def __init__(self, folder: Path, shape: ModelShape) -> None:
        self.folder, self.reference = hf_io.WeightFolder(folder, shape), f"{shape.family.weights.final_norm}.weight"
        self.dtype = self.folder.dtype(self.reference)
        self.outputs = self.folder.shape(SCORE)[0] if SCORE in self.folder else None

    def read(self, part: Slice) -> torch.Tensor:
        tensor = self.folder.read(part)
        if tensor.dtype != self.dtype:
            raise ModelError(
                f"{self.folder.path}: {part.name} is {tensor.dtype}, {self.reference} {self.dtype}; "
                "a checkpoint has weights of one dtype, save the model in one first"
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
