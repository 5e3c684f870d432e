# SPDX-License-Identifier: Apache-2.0
"""Settings of data preparation: the sources in the order they are merged, and the attribute file. Torch-free."""

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from steerlm.attributes import AttributeSchema
from steerlm.datasets.outputs import OnError
from steerlm.datasets.sources.registry import Source
from steerlm.dropped import DEFAULT_LIMIT
from steerlm.errors import InputError, first_problem
from steerlm.settings import Settings

SettingsT = TypeVar("SettingsT", bound=Settings)


class PrepareSettings(Settings):
    """The data section of a recipe: the sources, merged in this order."""

    sources: tuple[Source, ...] = Field(min_length=1)
    on_error: OnError = "fail"
    max_dropped: float = Field(default=DEFAULT_LIMIT, ge=0, le=1)
    """The largest share of a source's rows that may be dropped; more is an error."""
    use_system: bool = False
    """Put each record's own system prompt into the reward model's texts instead of the constant one."""


def build(model: type[SettingsT], **values: Any) -> SettingsT:
    """Return settings from a command's options. Raises `InputError` with the first problem."""
    try:
        return model(**values)
    except ValidationError as error:
        raise InputError(first_problem(error)) from None


class _RecipeAttributes(BaseModel):
    """The section `attributes` of a recipe; the other sections are not validated."""

    model_config = ConfigDict(extra="allow")

    attributes: AttributeSchema | None = None


def read_schema(path: Path | None) -> AttributeSchema:
    """Read the attribute schema from a YAML or JSON file: a recipe with the section `attributes`, or its keys alone.

    Without a file, or if the recipe has no such section, the schema is SteerLM's nine attributes. Raises `ConfigError`
    naming file, line and key.
    """
    if path is None:
        return AttributeSchema()
    from steerlm.configuration import load_settings

    recipe = load_settings(path, _RecipeAttributes)
    if recipe.attributes or {"prepare_data", "reward", "sft"} & (recipe.model_extra or {}).keys():
        return recipe.attributes or AttributeSchema()
    return load_settings(path, AttributeSchema)
