# SPDX-License-Identifier: Apache-2.0
"""Label every answer of the conversations with the reward model."""

from kfp import dsl
from steerlm_kfp.components.images import image


@dsl.component(base_image=image("annotate"), install_kfp_package=False)
def annotate(
    recipe: str,
    profile: str,
    options: str,
    data: dsl.Input[dsl.Dataset],
    reward: dsl.Input[dsl.Model],
    annotated: dsl.Output[dsl.Dataset],
) -> None:
    """Label every answer of the conversations with the reward model."""
    from steerlm.pipeline.step import run_step

    run_step("annotate", recipe, profile, {"data": [data], "reward": [reward]}, annotated, options)
