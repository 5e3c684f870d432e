# SPDX-License-Identifier: Apache-2.0
"""Fetch a Hugging Face model folder from the hub, an object store or a local folder."""

from kfp import dsl
from steerlm_kfp.components.images import image


@dsl.component(base_image=image("fetch-model"), install_kfp_package=False)
def fetch_model(
    step: str,
    recipe: str,
    profile: str,
    options: str,
    model: dsl.Output[dsl.Model],
) -> None:
    """Fetch a Hugging Face model folder from the hub, an object store or a local folder."""
    from steerlm.pipeline.step import run_step

    run_step(step, recipe, profile, {}, model, options)
