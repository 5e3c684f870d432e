# SPDX-License-Identifier: Apache-2.0
"""Convert raw sources to conversations, regression samples for the reward model and held-out questions."""

from kfp import dsl
from steerlm_kfp.components.images import image


@dsl.component(base_image=image("prepare-data"), install_kfp_package=False)
def prepare_data(
    recipe: str,
    profile: str,
    options: str,
    data: dsl.Output[dsl.Dataset],
) -> None:
    """Convert raw sources to conversations, regression samples for the reward model and held-out questions."""
    from steerlm.pipeline.step import run_step

    run_step("prepare_data", recipe, profile, {}, data, options)
