# SPDX-License-Identifier: Apache-2.0
"""Fine-tune a model on conversations conditioned on attributes; as `train_baseline`, without attributes."""

from kfp import dsl
from steerlm_kfp.components.images import image


@dsl.component(base_image=image("train-sft"), install_kfp_package=False)
def train_sft(
    step: str,
    recipe: str,
    profile: str,
    options: str,
    annotated: dsl.Input[dsl.Dataset],
    data: dsl.Input[dsl.Dataset],
    base: dsl.Input[dsl.Model],
    model: dsl.Output[dsl.Model],
) -> None:
    """Fine-tune a model on conversations conditioned on attributes; as `train_baseline`, without attributes."""
    from steerlm.pipeline.step import run_step

    run_step(step, recipe, profile, {"data": [annotated, data], "base": [base]}, model, options)
