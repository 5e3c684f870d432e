# SPDX-License-Identifier: Apache-2.0
"""Stage `fetch_model`: fetch a Hugging Face model folder from the hub, an object store or this machine."""

from typing import Any

from steerlm.checksums import digest_source
from steerlm.recipe import FetchSection, Recipe
from steerlm.stages.base import Inputs, Stage, StageContext, StageResult


def config(recipe: Recipe, role: str) -> FetchSection | None:
    """Return the section of the role: `policy`, or `reward` for the reward model's own base."""
    if recipe.base is None:
        return None
    return recipe.base.reward if role == "reward" else recipe.base.fetch


def method(config: FetchSection, inputs: Inputs) -> dict[str, Any]:
    """Return the URI; a local folder is represented by its content."""
    return {"uri": digest_source(config.uri)}


def make(config: FetchSection, inputs: Inputs, context: StageContext) -> StageResult:
    """Fetch the model of `config.uri` into the artifact's folder and note the URI. Raises what `fetch_model` raises."""
    from steerlm.models.fetch import fetch_model

    fetch_model(config.uri, context.files)
    return StageResult(notes={"uri": config.uri})


STAGE: Stage[FetchSection] = Stage("fetch_model", "base", make, code=(__name__,), method=method)
