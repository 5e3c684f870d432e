# SPDX-License-Identifier: Apache-2.0
"""Stage `train_base`: plain language modelling, from random weights or on from a fetched model."""

from steerlm.errors import InputError
from steerlm.recipe import Recipe
from steerlm.stages.base import Inputs, Stage, StageContext, StageResult
from steerlm.training.config import TextSettings
from steerlm.trainjob import job as train_job


def config(recipe: Recipe, role: str) -> TextSettings | None:
    return recipe.base.train if recipe.base else None


def make(config: TextSettings, inputs: Inputs, work: StageContext) -> StageResult:
    """`data`: its plain text and, without a `base` model, its tokenizer."""
    data, base = inputs["data"].path, inputs.get("base")
    if not (data / "plain_train.jsonl").exists():
        raise InputError(f"{inputs['data'].uri} holds no plain text to train a base model on")
    return train_job.train(
        work,
        "text",
        config,
        work.profile.layouts.base,
        train=[data / "plain_train.jsonl"],
        validation=[data / "plain_val.jsonl"],
        model=base,
        tokenizer=base.path if base else data / "tokenizer",
        attributes=None,
    )


STAGE: Stage[TextSettings] = Stage(
    "train_base", "base", make, code=(__name__, *train_job.CODE), without=train_job.others("text")
)
