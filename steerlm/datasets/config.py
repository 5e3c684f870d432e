# SPDX-License-Identifier: Apache-2.0
"""The settings of data preparation: which sources, how each is read, how they are merged. Torch-free.

Knows what a recipe may say; leaves reading and writing to its siblings. The defaults are NeMo-Aligner's choices
(behaviour spec, section 1).
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError, model_validator

from steerlm.attributes import AttributeSchema
from steerlm.errors import InputError, first_problem
from steerlm.settings import Settings

OnError = Literal["fail", "skip"]
"""A bad line ends the run, or is counted and written to the rejects beside the output."""

Uri = Annotated[str, Field(min_length=1)]
ModelT = TypeVar("ModelT", bound=BaseModel)


class SourceSettings(Settings):
    """`source`: a hub dataset `owner/name[@revision]`, a local file or folder, or an `s3://` URI."""

    source: Uri
    repeat: PositiveInt = 1
    """How many times in a row each training line is written when sources are merged; validation never repeats."""

    def patterns(self) -> tuple[str, ...]:
        """Which files of a hub dataset are downloaded."""
        return ("train*", "val*", "data/train*", "data/val*")


class OasstSource(SourceSettings):
    """OpenAssistant trees. Default split: 95 % of the trees, shuffled as upstream does, train.

    With `folds`, every `folds`-th of the shuffled trees, counted from `fold`, validates and the others train.
    """

    kind: Literal["oasst"] = "oasst"
    source: Uri = "OpenAssistant/oasst1"
    names: tuple[str, ...] | None = None
    """Ratings of the dataset that become labels; null: those of quality, toxicity, humor, creativity in the schema."""
    folds: Annotated[int, Field(ge=2)] | None = None
    fold: NonNegativeInt = 0

    @model_validator(mode="after")
    def _fold_exists(self) -> Self:
        if self.fold >= (self.folds or 1):
            raise ValueError(f"fold {self.fold} does not exist: folds = {self.folds}, and the first fold is 0")
        return self

    def patterns(self) -> tuple[str, ...]:
        return ("*_all.trees.jsonl.gz",)


class HelpSteerSource(SourceSettings):
    """HelpSteer: a prompt, a response and its five ratings on each row."""

    kind: Literal["helpsteer"] = "helpsteer"
    source: Uri = "nvidia/HelpSteer"


class HelpSteer2Source(SourceSettings):
    """HelpSteer2, or with `preference` its pairs, whose strength -3..3 travels in the first attribute's slot."""

    kind: Literal["helpsteer2"] = "helpsteer2"
    source: Uri = "nvidia/HelpSteer2"
    only_helpfulness: bool = False
    preference: bool = False
    split_embedded_turns: bool = False
    """Make the earlier turns that some prompts carry inside their text turns of their own (upstream leaves them)."""

    @model_validator(mode="after")
    def _labels_remain(self) -> Self:
        if self.preference and self.only_helpfulness:
            raise ValueError(
                "preference and only_helpfulness exclude each other: preference rows have no helpfulness, so every "
                "label would be empty (as it is upstream) and no regression sample would come of them"
            )
        if self.preference and self.repeat > 1:
            raise ValueError("repeat would tear preference pairs apart (a a b b); use the training stage's epochs")
        return self

    def patterns(self) -> tuple[str, ...]:
        return ("preference/*",) if self.preference else super().patterns()


class ConversationsSource(SourceSettings):
    """Conversations already in the format: a folder of files named `train*` and `val*`, or one file (training)."""

    kind: Literal["conversations"] = "conversations"


Source = Annotated[OasstSource | HelpSteerSource | HelpSteer2Source | ConversationsSource, Field(discriminator="kind")]


class PrepareSettings(Settings):
    """The data section of a recipe: the sources, merged in this order."""

    sources: tuple[Source, ...] = Field(min_length=1)
    on_error: OnError = "fail"
    use_system: bool = False
    """Put each record's own system prompt into the reward model's texts instead of the constant one."""


def build(model: type[ModelT], **values: Any) -> ModelT:
    """Settings from options; raises `InputError` with the one thing that is wrong."""
    try:
        return model(**values)
    except ValidationError as error:
        raise InputError(first_problem(error)) from None


class _OfRecipe(BaseModel):
    """What a recipe says of attributes; the rest of it is not looked at."""

    model_config = ConfigDict(extra="allow")

    attributes: AttributeSchema | None = None


def read_schema(path: Path | None) -> AttributeSchema:
    """The attribute schema of a YAML or JSON file: a recipe's section `attributes`, or that section's keys alone.

    Without a file, or in a recipe without that section, SteerLM's nine. Raises `ConfigError` naming file, line and key.
    """
    if path is None:
        return AttributeSchema()
    from steerlm.configuration import load_settings

    recipe = load_settings(path, _OfRecipe)
    if recipe.attributes or {"prepare_data", "reward", "sft"} & (recipe.model_extra or {}).keys():
        return recipe.attributes or AttributeSchema()
    return load_settings(path, AttributeSchema)
