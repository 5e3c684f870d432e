# SPDX-License-Identifier: Apache-2.0
"""Stage `train_sft`: attribute-conditioned fine-tuning on annotated conversations; without labels, its baseline."""

from steerlm.attributes import AttributeSchema
from steerlm.recipe import Recipe, SFTSection
from steerlm.stages import training
from steerlm.stages.base import Inputs, Stage, StageConfig, StageContext, StageResult
from steerlm.trainjob.spec import TrainSpec, nonempty


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
    spec = TrainSpec(
        objective="sft",
        settings=config.section.settings(),
        layout=work.profile.layouts.sft,
        faults=work.profile.jobs.faults,
        attributes=schema,
        model_folder=base.path,
        base=training.origin(base),
        tokenizer_folder=base.path,
        train=[data.path / "train.jsonl"] * config.section.repeat,
        validation=nonempty([data.path / "val.jsonl"]),
        work=work.scratch,
        output=work.files,
    )
    return training.train(work, spec)


STAGE: Stage[SFTConfig] = Stage(
    "train_sft", "policy", make, code=(__name__, *training.CODE), without=training.other_objectives("sft")
)
