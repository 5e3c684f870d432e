# SPDX-License-Identifier: Apache-2.0
"""Train the multi-attribute reward model on rated answers."""

from kfp import dsl
from steerlm_kfp.components.images import image


@dsl.component(base_image=image("train-reward"), install_kfp_package=False)
def train_reward(
    recipe: str,
    profile: str,
    options: str,
    data: dsl.Input[dsl.Dataset],
    own_base: dsl.Input[dsl.Model],
    base: dsl.Input[dsl.Model],
    model: dsl.Output[dsl.Model],
) -> None:
    """Train the multi-attribute reward model on rated answers."""
    from steerlm.pipeline.step import run_step

    run_step("train_reward", recipe, profile, {"data": [data], "base": [own_base, base]}, model, options)
