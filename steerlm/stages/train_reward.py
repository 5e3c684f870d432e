# SPDX-License-Identifier: Apache-2.0
"""Stage `train_reward`: the multi-attribute reward model, on the labelled turns."""

from steerlm.attributes import AttributeSchema
from steerlm.recipe import Recipe
from steerlm.stages import training
from steerlm.stages.base import Inputs, Stage, StageConfig, StageContext, StageResult
from steerlm.training.config import RewardSettings
from steerlm.trainjob.spec import TrainSpec, nonempty


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
    spec = TrainSpec(
        objective="reward",
        settings=config.settings,
        layout=work.profile.layouts.reward,
        faults=work.profile.jobs.faults,
        attributes=config.attributes,
        model_folder=base.path,
        base=training.origin(base),
        tokenizer_folder=base.path,
        train=[data / "regression_train.jsonl"],
        validation=nonempty([data / "regression_val.jsonl"]),
        work=work.scratch,
        output=work.files,
    )
    return training.train(work, spec)


STAGE: Stage[RewardConfig] = Stage(
    "train_reward", "reward", make, code=(__name__, *training.CODE), without=training.other_objectives("reward")
)
