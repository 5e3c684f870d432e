# SPDX-License-Identifier: Apache-2.0
"""The trainings of a recipe: their settings and layouts by section, and the models that they start from."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from steerlm.errors import ConfigError, InputError, SteerLMError
from steerlm.models.nemo import refuse_nemo
from steerlm.models.public import public_shape, suggestion
from steerlm.models.shape import ModelShape
from steerlm.recipe import Recipe, ResolvedRecipe, SFTSection
from steerlm.training.config import TrainSettings
from steerlm.training.layout import LayoutSettings
from steerlm.training.objectives.registry import OBJECTIVES, ObjectiveEntry, objective_entry


@dataclass(frozen=True, slots=True)
class TrainingSection:
    """One training of a recipe. `settings`: of its section in the recipe; `layout`: in the profile."""

    objective: str
    settings: TrainSettings
    layout: LayoutSettings

    @property
    def entry(self) -> ObjectiveEntry[Any]:
        """The objective's settings class and constructor, from `OBJECTIVES`."""
        return OBJECTIVES[self.objective]

    @property
    def name(self) -> str:
        """The name that commands and messages use: base, reward or sft."""
        return self.entry.layout


def training_sections(resolved: ResolvedRecipe) -> list[TrainingSection]:
    """Return a recipe's trainings in the order in which they run."""
    sections = [_section(resolved, objective) for objective in OBJECTIVES]
    return [section for section in sections if section is not None]


def training_section(resolved: ResolvedRecipe, objective: str) -> TrainingSection:
    """Return a recipe's training with an objective. Raises `ConfigError` if there is none."""
    entry, section = objective_entry(objective), _section(resolved, objective)
    if section is None:
        raise ConfigError(f"the recipe {resolved.recipe.name} has no section {entry.section}")
    return section


def model_role(recipe: Recipe, section: str) -> str:
    """Return which of the recipe's two models a section starts from: `base`, or `reward` if it has its own."""
    return "reward" if section == "reward" and recipe.base and recipe.base.reward else "base"


def initial_model(recipe: Recipe, role: str, folders: Mapping[str, Path]) -> tuple[str, ModelShape]:
    """Return the name and shape of the model that trainings of a role start from.

    The shape is known from a folder, the recipe or the list of public models; else `config.json` is read from the hub
    or the store.

    Args:
        recipe: The recipe.
        role: See `model_role`.
        folders: Model folders by role, or their `config.json`, in place of the recipe's models.

    Raises:
        InputError: There is no such model, or it cannot be trained.
        StorageError: The hub or the store cannot be read.
    """
    base = recipe.base
    assert base is not None, "a recipe that trains has a base"
    if role in folders:
        return str(folders[role]), _shape_of(folders[role])
    fetched = base.reward if role == "reward" else base.fetch
    if fetched is None:
        assert base.train is not None and base.train.shape is not None, "a base is fetched or has a shape"
        return "from random weights", base.train.shape
    if "://" not in fetched.uri:
        return fetched.uri, _shape_of(Path(fetched.uri))
    if shape := public_shape(fetched.uri):
        return fetched.uri, shape
    from steerlm.models.fetch import fetch_shape

    try:
        return fetched.uri, fetch_shape(fetched.uri)
    except SteerLMError as error:
        raise type(error)(f"{error}{suggestion(fetched.uri)}") from None


def _shape_of(path: Path) -> ModelShape:
    """Return the shape of a model folder, or of a `config.json` alone."""
    if path.suffix == ".json":
        return ModelShape.from_config(path)
    refuse_nemo(path)
    if not path.exists():
        raise InputError(f"{path}: no such model folder; a folder or a URI such as hf://org/name was expected")
    return ModelShape.from_folder(path)


def _section(resolved: ResolvedRecipe, objective: str) -> TrainingSection | None:
    entry = OBJECTIVES[objective]
    keys = entry.section.split(".")
    settings: Any = reduce(lambda value, key: value and getattr(value, key), keys, resolved.recipe)
    if settings is None:
        return None
    if isinstance(settings, SFTSection):
        settings = settings.settings()
    return TrainingSection(objective, settings, getattr(resolved.profile.layouts, entry.layout))
