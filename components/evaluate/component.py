# SPDX-License-Identifier: Apache-2.0
"""Measure how well attributes steer the policy and how well the reward model predicts ratings."""

from kfp import dsl
from steerlm_kfp.components.images import image


@dsl.component(base_image=image("evaluate"), install_kfp_package=False)
def evaluate(
    recipe: str,
    profile: str,
    options: str,
    data: dsl.Input[dsl.Dataset],
    reward: dsl.Input[dsl.Model],
    policy: dsl.Input[dsl.Model],
    baseline: dsl.Input[dsl.Model],
    evaluation: dsl.Output[dsl.Artifact],
) -> None:
    """Measure how well attributes steer the policy and how well the reward model predicts ratings."""
    from steerlm.pipeline.step import run_step

    run_step(
        "evaluate",
        recipe,
        profile,
        {"data": [data], "reward": [reward], "policy": [policy], "baseline": [baseline]},
        evaluation,
        options,
    )
