# SPDX-License-Identifier: Apache-2.0
"""Write one HTML page with steering curves, reward quality, training curves and sample answers."""

from kfp import dsl
from steerlm_kfp.components.images import image


@dsl.component(base_image=image("report"), install_kfp_package=False)
def report(
    recipe: str,
    profile: str,
    options: str,
    data: dsl.Input[dsl.Dataset],
    base: dsl.Input[dsl.Model],
    reward: dsl.Input[dsl.Model],
    annotated: dsl.Input[dsl.Dataset],
    policy: dsl.Input[dsl.Model],
    baseline: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    page: dsl.Output[dsl.Artifact],
) -> None:
    """Write one HTML page with steering curves, reward quality, training curves and sample answers."""
    from steerlm.pipeline.step import run_step

    run_step(
        "report",
        recipe,
        profile,
        {
            "data": [data],
            "base": [base],
            "reward": [reward],
            "annotated": [annotated],
            "policy": [policy],
            "baseline": [baseline],
            "evaluation": [evaluation],
        },
        page,
        options,
    )
