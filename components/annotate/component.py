# SPDX-License-Identifier: Apache-2.0
"""The reward model labels every answer of the conversations."""

from kfp import dsl
from steerlm_kfp.components.images import image


@dsl.component(base_image=image("train"), install_kfp_package=False)
def annotate(
    recipe: str,
    profile: str,
    data: dsl.Input[dsl.Dataset],
    reward: dsl.Input[dsl.Model],
    annotated: dsl.Output[dsl.Dataset],
) -> None:
    from steerlm.pipeline.step import run_step

    run_step("annotate", recipe, profile, {"data": [data], "reward": [reward]}, annotated)
