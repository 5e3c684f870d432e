# SPDX-License-Identifier: Apache-2.0
"""Checks a recipe's layouts before its first stage starts: their nodes, and whether they fit the models."""

import contextlib
from collections.abc import Iterator

from steerlm.errors import ConfigError
from steerlm.jobs.registry import make_backend
from steerlm.recipe import Profile, Recipe, ResolvedRecipe
from steerlm.training.footprint import check_batch
from steerlm.training.layout import LayoutSettings
from steerlm.trainjob.sections import initial_model, model_role, training_sections


def check_layouts(resolved: ResolvedRecipe) -> None:
    """Check that every stage can run where the profile puts it.

    Raises:
        ConfigError: A stage would fail when it starts, hours after the first one: its layout has more nodes than the
            back end, or does not fit a model whose shape is known before it is fetched.
    """
    recipe, profile, layouts = resolved.recipe, resolved.profile, resolved.profile.layouts
    for name, section, layout in (
        ("annotate", recipe.annotate, layouts.annotate),
        ("evaluate", recipe.evaluate, layouts.evaluate),
    ):
        if section:
            _check_nodes(name, layout, profile, f"steerlm {name} works on files")
    if recipe.annotate and recipe.reward:
        _check_annotation_fits(recipe, layouts.annotate)
    for training in training_sections(resolved):
        command = f"train each model by torchrun: steerlm train {training.objective} --write-spec"
        _check_nodes(training.name, training.layout, profile, command)
        _, shape = initial_model(recipe, model_role(recipe, training.name), {})
        if shape:
            with in_section(training.name):
                training.layout.check_fits(shape)
                check_batch(training.settings, training.layout, shape)


@contextlib.contextmanager
def in_section(name: str) -> Iterator[None]:
    """Put the name of a section before the message of a `ConfigError`."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None


def _check_annotation_fits(recipe: Recipe, layout: LayoutSettings) -> None:
    _, shape = initial_model(recipe, model_role(recipe, "reward"), {})
    if shape:
        with in_section("annotate"):
            layout.check_fits(shape)


def _check_nodes(section: str, layout: LayoutSettings, profile: Profile, alternative: str) -> None:
    limit = make_backend(profile).max_nodes
    if limit is not None and layout.nodes > limit:
        raise ConfigError(
            f"{section}: profile {profile.name} has {layout.nodes} nodes x {layout.devices} processes, and its back "
            f"end {profile.backend} allows at most {limit} node{'s' if limit > 1 else ''}; "
            f"name a --profile with fewer nodes ({alternative})"
        )
