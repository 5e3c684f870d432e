# SPDX-License-Identifier: Apache-2.0
"""Stage `train_sft`: fine-tune on annotated conversations conditioned on attributes, or the baseline without them."""

from steerlm.attributes import AttributeSchema
from steerlm.recipe import Recipe, SFTSection
from steerlm.stages import training
from steerlm.stages.base import Inputs, Stage, StageConfig, StageContext, StageResult
from steerlm.trainjob.spec import TrainSpec, nonempty


class SFTConfig(StageConfig):
    """The recipe's fine-tuning section, and the attributes that the prompt template may name."""

    section: SFTSection
    attributes: AttributeSchema


def config(recipe: Recipe, role: str) -> SFTConfig | None:
    """Return the config of the role: `policy` or `baseline`."""
    section = recipe.baseline if role == "baseline" else recipe.sft
    if section is None:
        return None
    return SFTConfig(section=section, attributes=recipe.attributes if section.conditioned else AttributeSchema())


def make(config: SFTConfig, inputs: Inputs, context: StageContext) -> StageResult:
    """Train on the conversations of `data`, annotated or not, starting from the model `base`.

    The policy's attributes are those its annotator was trained on, with the recipe's defaults.
    """
    data, base = inputs["data"], inputs["base"]
    trained = data.attributes.active if data.attributes else config.attributes.names
    schema = config.attributes.restricted(trained) if config.section.conditioned else None
    spec = TrainSpec(
        objective="sft",
        settings=config.section.settings(),
        layout=context.profile.layouts.sft,
        faults=context.profile.jobs.faults,
        attributes=schema,
        model_folder=base.path,
        base=training.origin(base),
        tokenizer_folder=base.path,
        train=[data.path / "train.jsonl"] * config.section.repeat,
        validation=nonempty([data.path / "val.jsonl"]),
        work=context.scratch,
        output=context.files,
    )
    return training.train(context, spec)


STAGE: Stage[SFTConfig] = Stage(
    "train_sft", "policy", make, code=(__name__, *training.CODE), without=training.other_objectives("sft")
)
