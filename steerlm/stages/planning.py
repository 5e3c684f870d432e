"""What the trainings of a recipe need: joins recipe, profile, model shapes and the data's lengths into a plan."""

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerlm.attributes import AttributeSchema
from steerlm.errors import ConfigError, InputError
from steerlm.models.public import public_shape
from steerlm.models.shape import LlamaShape
from steerlm.recipe import Recipe, ResolvedRecipe
from steerlm.training.config import LayoutSettings, TrainSettings
from steerlm.training.footprint import Needs, needs


@dataclass(frozen=True, slots=True)
class Planned:
    """One training: its model by name, its settings, where it runs and what it needs there."""

    model: str
    settings: TrainSettings
    layout: LayoutSettings
    need: Needs

    def values(self) -> dict[str, Any]:
        layout = self.layout.model_dump(mode="json") | {"data_parallel": self.layout.data_parallel}
        return {"model": self.model, "layout": layout, **dataclasses.asdict(self.need)}


def plan_recipe(
    resolved: ResolvedRecipe,
    models: Mapping[str, Path],
    data: Mapping[str, Path],
    tokenizer: Path | None = None,
) -> dict[str, Planned]:
    """A plan for each of the recipe's trainings, by section: base, reward, sft.

    `models`: folders of `base` and `reward` where their shape is not known by name. `data`: training files by section,
    tokenised with `tokenizer`. Raises `ConfigError` for a layout that cannot be, `InputError` for what is missing.
    """
    recipe, layouts = resolved.recipe, resolved.profile.layouts
    sections: dict[str, tuple[TrainSettings, LayoutSettings]] = {}
    if recipe.base and recipe.base.train:
        sections["base"] = (recipe.base.train, layouts.base)
    if recipe.reward:
        sections["reward"] = (recipe.reward, layouts.reward)
    if recipe.sft:
        sections["sft"] = (recipe.sft.settings(), layouts.sft)
    if not sections:
        raise ConfigError(f"the recipe {recipe.name} trains nothing: it has no section base.train, reward or sft")
    planned = {}
    for name, (settings, layout) in sections.items():
        model, shape = _shape(recipe, name, models)
        outputs = len(recipe.attributes.names) if name == "reward" else None
        lengths = None
        if name in data:
            if tokenizer is None:
                raise InputError(f"{data[name]}: its lengths need a tokenizer; give --tokenizer FOLDER")
            lengths = _lengths(data[name], settings, recipe.attributes, tokenizer)
        try:
            planned[name] = Planned(model, settings, layout, needs(shape, settings, layout, outputs, lengths))
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from None
    return planned


def _shape(recipe: Recipe, section: str, models: Mapping[str, Path]) -> tuple[str, LlamaShape]:
    base = recipe.base
    assert base is not None, "a recipe that trains has a base"
    fetched = base.reward if section == "reward" and base.reward else base.fetch
    role = "reward" if section == "reward" and base.reward else "base"
    if role in models:
        return str(models[role]), LlamaShape.from_folder(models[role])
    if fetched is None:
        assert base.train is not None and base.train.shape is not None, "a base is fetched or has a shape"
        return "from random weights", base.train.shape
    known = public_shape(fetched.uri)
    if known is None:
        if Path(fetched.uri).is_dir():
            return fetched.uri, LlamaShape.from_folder(fetched.uri)
        raise InputError(f"{fetched.uri}: its shape is not known here; fetch it and give --model {role}=FOLDER")
    return fetched.uri, known


def _lengths(path: Path, settings: TrainSettings, schema: AttributeSchema, tokenizer: Path) -> Sequence[int]:
    """Tokens of every sample of a training file, as the section's objective makes them."""
    from steerlm.stages.train import make_objective
    from steerlm.training.dataset import TokenDataset

    objective = make_objective(settings, schema, tokenizer)
    with tempfile.TemporaryDirectory() as scratch:
        lengths: list[int] = TokenDataset.build([path], objective, Path(scratch)).lengths.tolist()
    return lengths
