# SPDX-License-Identifier: Apache-2.0
"""Stage `train_reward`: train the multi-attribute reward model on the labeled turns."""

from steerlm.attributes import AttributeSchema
from steerlm.recipe import Recipe
from steerlm.stages import training
from steerlm.stages.base import Inputs, Stage, StageConfig, StageContext, StageResult
from steerlm.training.config import RewardSettings
from steerlm.trainjob.spec import TrainSpec, nonempty


class RewardConfig(StageConfig):
    """Settings and attributes, without the attributes' defaults: a reward model does not depend on them."""

    settings: RewardSettings
    attributes: AttributeSchema


def config(recipe: Recipe, role: str) -> RewardConfig | None:
    """Return the reward settings and the attributes without defaults; None: the stage does not apply."""
    if recipe.reward is None:
        return None
    return RewardConfig(settings=recipe.reward, attributes=recipe.attributes.model_copy(update={"defaults": {}}))


def make(config: RewardConfig, inputs: Inputs, context: StageContext) -> StageResult:
    """Train on the regression samples of `data`, starting from the model `base`."""
    data, base = inputs["data"].path, inputs["base"]
    spec = TrainSpec(
        objective="reward",
        settings=config.settings,
        layout=context.profile.layouts.reward,
        faults=context.profile.jobs.faults,
        attributes=config.attributes,
        model_folder=base.path,
        base=training.origin(base),
        tokenizer_folder=base.path,
        train=[data / "regression_train.jsonl"],
        validation=nonempty([data / "regression_val.jsonl"]),
        work=context.scratch,
        output=context.files,
    )
    return training.train(context, spec)


STAGE: Stage[RewardConfig] = Stage(
    "train_reward", "reward", make, code=(__name__, *training.CODE), without=training.other_objectives("reward")
)
