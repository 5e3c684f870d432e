# SPDX-License-Identifier: Apache-2.0
"""What the tests of this room share: small models, samples, engines, and the oracle for each."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from steerlm.attributes import MASKED, AttributeSchema
from steerlm.megatron.engine import MegatronEngine, build_engine
from steerlm.models.families import FAMILIES
from steerlm.models.shape import ModelShape, RopeScaling
from steerlm.training.config import OptimizerSettings, RewardSettings, TextSettings, TrainSettings
from steerlm.training.data import Row, Sample
from steerlm.training.engine import Layout, Objective
from steerlm.training.layout import LayoutSettings
from steerlm.training.objectives.reward import RewardObjective
from steerlm.training.objectives.text import TextObjective
from steerlm.training.packing import plan_rows
from tests.reference_engine import ReferenceEngine

VOCABULARY, OUTPUTS, LR = 96, 9, 1e-3
GQA = ModelShape(
    vocab_size=VOCABULARY,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    initializer_range=0.2,
)
SHAPES = {
    "gqa": GQA,
    "mha": GQA.model_copy(update={"num_key_value_heads": 4}),
    "tied": GQA.model_copy(update={"tie_word_embeddings": True}),
    "wide heads": GQA.model_copy(update={"head_dim": 16}),
    # Numbers that megatron's own rotary embedding would ignore; its defaults are 1, 4, 8192.
    "scaled": GQA.model_copy(
        update={
            "rope_theta": 500000.0,
            "rope_scaling": RopeScaling(
                factor=4.0, low_freq_factor=1.5, high_freq_factor=3.0, original_max_position_embeddings=32
            ),
        }
    ),
}
FAMILY_SHAPES = {
    f"{name}{' tied' if tied else ''}": GQA.model_copy(update={"model_type": name, "tie_word_embeddings": tied})
    for name in FAMILIES
    for tied in (False, True)
}
"""Every entry of the table of families, with its own vocabulary projection and with that of the embeddings."""
SHAPES |= {name: shape for name, shape in FAMILY_SHAPES.items() if shape.model_type != "llama"}


def settings(outputs: int | None = None, **values: Any) -> TrainSettings:
    kind = TextSettings if outputs is None else RewardSettings
    # A large eps: where a gradient is nothing but rounding, Adam would make a full step of its sign.
    optimizer = OptimizerSettings(lr=LR, min_lr=LR / 10, clip=0.5, weight_decay=0.1, eps=1e-5)
    return kind(**{"max_steps": 10, "precision": "fp32", "optimizer": optimizer, **values})


def objective(outputs: int | None) -> Objective:
    if outputs is None:
        return TextObjective(TextSettings(max_steps=10), None)
    return RewardObjective(RewardSettings(max_steps=10), None, AttributeSchema())


def engine(
    shape: ModelShape = GQA,
    outputs: int | None = None,
    folder: Path | None = None,
    layout: dict[str, Any] | None = None,
    **values: Any,
) -> MegatronEngine:
    """Weights of `folder`, or drawn."""
    return build_engine(
        model_folder=folder,
        shape=None if folder else shape,
        outputs=outputs,
        settings=settings(outputs, **values),
        layout=LayoutSettings(**(layout or {})),
    )


def samples(step: int, outputs: int | None = None, count: int = 9) -> list[Sample]:
    """Of 3 to 39 tokens, partly learned or partly labeled; the same for every layout."""
    draw = np.random.default_rng(step)
    made = []
    for n in draw.integers(3, 40, count):
        ids = draw.integers(1, VOCABULARY, n).astype(np.int32)  # 0 pads: transformers learns nothing for it
        if outputs is None:
            weights = np.where(draw.random(n) < 0.6, draw.random(n), 0).astype(np.float32)
            weights[0] = 0
            made.append(Sample(ids, weights, count=int((weights != 0).sum())))
        else:
            labels = draw.integers(0, 5, outputs).astype(np.float32)
            labels[draw.random(outputs) < 0.3] = MASKED
            made.append(Sample(ids, np.zeros(n, np.float32), labels, count=int((labels != MASKED).sum())))
    return made


def packed(of: list[Sample], layout: Layout = Layout()) -> list[Row]:  # noqa: B008 (frozen)
    """This rank's rows of at most 64 tokens."""
    planned = plan_rows([len(sample.ids) for sample in of], 64, layout.dp_size)
    return [Row(tuple(of[i] for i in row)) for row in planned[layout.dp_rank]]


def denominator(of: list[Sample]) -> int:
    return sum(sample.count for sample in of)


def write_config(folder: Path, shape: ModelShape, outputs: int | None) -> None:
    head = {} if outputs is None else {"num_labels": outputs, "pad_token_id": 0}
    (folder / "config.json").write_text(json.dumps({**shape.to_config(reward=outputs is not None), **head}))


def oracle(of: MegatronEngine, folder: Path, outputs: int | None) -> ReferenceEngine:
    """transformers with the same weights, by way of a Hugging Face folder."""
    of.write_hf(folder)
    write_config(folder, of.shape, outputs)
    return ReferenceEngine(settings(outputs).optimizer, model_folder=folder, outputs=outputs)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder's safetensors, each in one file."""
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors = load_file(path)
        assert not tensors.keys() & found.keys()
        found |= tensors
    return found


def transformers_folder(folder: Path, shape: ModelShape, dtype: torch.dtype = torch.float32) -> Path:
    """As transformers writes it; norms are not all one, nor biases zero."""
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder, shape, None)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.to(dtype).save_pretrained(folder)
    return folder


def same(a: Path, b: Path) -> None:
    """Fails unless two folders hold the same tensors, bit for bit."""
    ours, theirs = weights(a), weights(b)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype and torch.equal(ours[name], tensor), name


def curve(of: MegatronEngine, outputs: int | None, steps: range) -> list[tuple[float, float]]:
    """Loss and gradient norm per step."""
    learn, found = objective(outputs), []
    for step in steps:
        some = samples(step, outputs)
        result = of.step(packed(some, of.layout), learn, LR, denominator(some))
        found.append((result.loss, result.grad_norm))
    return found
