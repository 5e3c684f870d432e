# SPDX-License-Identifier: Apache-2.0
"""Stage `train_base`: train a language model on plain text, from random weights or from a fetched model."""

from steerlm.errors import InputError
from steerlm.recipe import Recipe
from steerlm.stages import training
from steerlm.stages.base import Inputs, Stage, StageContext, StageResult
from steerlm.training.config import TextSettings
from steerlm.trainjob.spec import TrainSpec, nonempty


def config(recipe: Recipe, role: str) -> TextSettings | None:
    """Return the settings of language modeling; None: the recipe trains no base model."""
    return recipe.base.train if recipe.base else None


def make(config: TextSettings, inputs: Inputs, context: StageContext) -> StageResult:
    """Train on the plain text of `data`, from `base` or from random weights with the tokenizer of `data`."""
    data, base = inputs["data"].path, inputs.get("base")
    if not (data / "plain_train.jsonl").exists():
        raise InputError(f"{inputs['data'].uri} has no plain text to train a base model on")
    spec = TrainSpec(
        objective="text",
        settings=config,
        layout=context.profile.layouts.base,
        faults=context.profile.jobs.faults,
        model_folder=base.path if base else None,
        base=training.origin(base) if base else None,
        tokenizer_folder=base.path if base else data / "tokenizer",
        train=[data / "plain_train.jsonl"],
        validation=nonempty([data / "plain_val.jsonl"]),
        work=context.scratch,
        output=context.files,
    )
    return training.train(context, spec)


STAGE: Stage[TextSettings] = Stage(
    "train_base", "base", make, code=(__name__, *training.CODE), without=training.other_objectives("text")
)
