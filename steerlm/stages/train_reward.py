# SPDX-License-Identifier: Apache-2.0
"""Stage `train_reward`: the multi-attribute reward model, on the labelled turns."""

from steerlm.attributes import AttributeSchema
from steerlm.recipe import Recipe
from steerlm.stages.base import Inputs, Stage, StageConfig, StageContext, StageResult
from steerlm.training.config import RewardSettings
from steerlm.trainjob import job as train_job


class RewardConfig(StageConfig):
    """The dials' defaults are no concern of a reward model, so they stand in no key of it."""

    settings: RewardSettings
    attributes: AttributeSchema


def config(recipe: Recipe, role: str) -> RewardConfig | None:
    if recipe.reward is None:
        return None
    return RewardConfig(settings=recipe.reward, attributes=recipe.attributes.model_copy(update={"defaults": {}}))


def make(config: RewardConfig, inputs: Inputs, work: StageContext) -> StageResult:
    """`data`: regression samples; `base`: the model that it starts from."""
    data, base = inputs["data"].path, inputs["base"]
    return train_job.train(
        work,
        "reward",
        config.settings,
        work.profile.layouts.reward,
        train=[data / "regression_train.jsonl"],
        validation=[data / "regression_val.jsonl"],
        model=base,
        tokenizer=base.path,
        attributes=config.attributes,
    )


STAGE: Stage[RewardConfig] = Stage(
    "train_reward", "reward", make, code=(__name__, *train_job.CODE), without=train_job.others("reward")
)
