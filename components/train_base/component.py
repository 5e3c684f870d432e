# SPDX-License-Identifier: Apache-2.0
"""Train a language model on plain text, from random weights or from a fetched model."""

from kfp import dsl
from steerlm_kfp.components.images import image


@dsl.component(base_image=image("train-base"), install_kfp_package=False)
def train_base(
    recipe: str,
    profile: str,
    options: str,
    data: dsl.Input[dsl.Dataset],
    base: dsl.Input[dsl.Model],
    model: dsl.Output[dsl.Model],
) -> None:
    """Train a language model on plain text, from random weights or from a fetched model."""
    from steerlm.pipeline.step import run_step

    run_step("train_base", recipe, profile, {"data": [data], "base": [base]}, model, options)
