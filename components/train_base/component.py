# SPDX-License-Identifier: Apache-2.0
"""Plain language modelling, from random weights or on from a fetched model; else passes that on."""

from kfp import dsl
from steerlm_kfp.components.images import image


@dsl.component(base_image=image("train"), install_kfp_package=False)
def train_base(
    recipe: str,
    profile: str,
    data: dsl.Input[dsl.Dataset],
    base: dsl.Input[dsl.Model],
    model: dsl.Output[dsl.Model],
) -> None:
    from steerlm.pipeline.step import run_step

    run_step("train_base", recipe, profile, {"data": [data], "base": [base]}, model)
