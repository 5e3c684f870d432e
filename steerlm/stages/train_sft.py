# SPDX-License-Identifier: Apache-2.0
"""Stage `train_sft`: attribute-conditioned fine-tuning on annotated conversations; without labels, its baseline."""

from steerlm.attributes import AttributeSchema
from steerlm.recipe import Recipe, SFTSection
from steerlm.stages.base import Inputs, Stage, StageConfig, StageContext, StageResult
from steerlm.trainjob import job as train_job


class SFTConfig(StageConfig):
    section: SFTSection
    attributes: AttributeSchema


def config(recipe: Recipe, role: str) -> SFTConfig | None:
    """`role`: `policy` or `baseline`."""
    section = recipe.baseline if role == "baseline" else recipe.sft
    if section is None:
        return None
    return SFTConfig(section=section, attributes=recipe.attributes if section.conditioned else AttributeSchema())


def make(config: SFTConfig, inputs: Inputs, work: StageContext) -> StageResult:
    """`data`: conversations, annotated or not; `base`: the model that it starts from.

    The policy's attributes are those its annotator was trained on, with the recipe's defaults.
    """
    data, base = inputs["data"], inputs["base"]
    seen = data.attributes.active if data.attributes else config.attributes.names
    schema = config.attributes.restricted(seen) if config.section.conditioned else None
    return train_job.train(
        work,
        "sft",
        config.section.settings(),
        work.profile.layouts.sft,
        train=[data.path / "train.jsonl"] * config.section.repeat,
        validation=[data.path / "val.jsonl"],
        model=base,
        tokenizer=base.path,
        attributes=schema,
    )


STAGE: Stage[SFTConfig] = Stage(
    "train_sft", "policy", make, code=(__name__, *train_job.CODE), without=train_job.others("sft")
)
