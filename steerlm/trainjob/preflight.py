# SPDX-License-Identifier: Apache-2.0
"""Checks before a run's first stage and before a training: layouts, models, tokenizers, windows.

What is found here would otherwise stop a stage hours later, or a training after its last step.
"""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from steerlm.errors import ConfigError, StorageError
from steerlm.jobs.registry import make_backend
from steerlm.models.shape import ModelShape
from steerlm.recipe import Profile, Recipe, ResolvedRecipe
from steerlm.training.footprint import check_batch
from steerlm.training.layout import LayoutSettings
from steerlm.trainjob.sections import initial_model, model_role, training_sections
from steerlm.trainjob.spec import TrainSpec

log = logging.getLogger(__name__)


def check_layouts(resolved: ResolvedRecipe) -> None:
    """Check that every stage can run where the profile puts it.

    Raises:
        ConfigError: A stage would fail when it starts, hours after the first one: its layout has more nodes than the
            back end, its layout or window does not fit the model, or the model cannot be trained.
    """
    recipe, profile, layouts = resolved.recipe, resolved.profile, resolved.profile.layouts
    for name, section, layout in (
        ("annotate", recipe.annotate, layouts.annotate),
        ("evaluate", recipe.evaluate, layouts.evaluate),
    ):
        if section:
            _check_nodes(name, layout, profile, f"steerlm {name} works on files")
    trainings = training_sections(resolved)
    shapes = {role: _shape(recipe, role) for role in sorted({model_role(recipe, t.name) for t in trainings})}
    if recipe.annotate and recipe.reward and (shape := shapes[model_role(recipe, "reward")]):
        with in_section("annotate"):
            layouts.annotate.check_fits(shape)
    for training in trainings:
        command = f"train each model by torchrun: steerlm train {training.objective} --write-spec"
        _check_nodes(training.name, training.layout, profile, command)
        if shape := shapes[model_role(recipe, training.name)]:
            with in_section(training.name):
                training.layout.check_fits(shape)
                check_batch(training.settings, training.layout, shape)


def check_training(spec: TrainSpec) -> None:
    """Check a training's model, tokenizer, layout and window, reading small files and the headers of the weights.

    Raises:
        ConfigError: The layout or the window does not fit the model.
        ModelError: The parts of the model do not belong together, or the tokenizer has more tokens than the embedding
            has rows.
    """
    from steerlm.models.check import check_tokenizer
    from steerlm.models.tokenizer import check_tokenizer_folder

    shape = spec.shape
    check_tokenizer_folder(spec.tokenizer_folder)
    spec.layout.check_fits(shape)
    check_batch(spec.settings, spec.layout, shape)
    if spec.model_folder:
        check_initial_model(spec.model_folder, shape, spec.outputs)
    check_tokenizer(spec.tokenizer_folder, spec.model_folder, shape)


def check_initial_model(folder: Path, shape: ModelShape, outputs: int | None) -> None:
    """Check that a folder is of a known kind and that its weights are those of its config. Raises `ModelError`."""
    from steerlm.models.check import check_weights
    from steerlm.models.folder import read_info

    read_info(folder)
    check_weights(folder, shape, outputs, initial=True)


@contextlib.contextmanager
def in_section(name: str) -> Iterator[None]:
    """Put the name of a section before the message of a `ConfigError`."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None


def _shape(recipe: Recipe, role: str) -> ModelShape | None:
    """Return the shape of the model that trainings of a role start from, or None if its place cannot be read.

    The run may have fetched the model before.
    """
    try:
        return initial_model(recipe, role, {})[1]
    except StorageError as error:
        log.warning("layouts and windows are checked when the model is there: %s", error)
        return None


def _check_nodes(section: str, layout: LayoutSettings, profile: Profile, alternative: str) -> None:
    limit = make_backend(profile).max_nodes
    if limit is not None and layout.nodes > limit:
        raise ConfigError(
            f"{section}: profile {profile.name} has {layout.nodes} nodes x {layout.devices} processes, and its back "
            f"end {profile.backend} allows at most {limit} node{'s' if limit > 1 else ''}; "
            f"name a --profile with fewer nodes ({alternative})"
        )
