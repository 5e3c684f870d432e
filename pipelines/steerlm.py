# SPDX-License-Identifier: Apache-2.0
"""The SteerLM pipeline: from raw data to a steerable model and a report.

One graph for every recipe: the recipe is a parameter, and a step without a section in it is skipped. KFP's cache is
off: the store's keys decide what runs, and they depend on contents that KFP does not see, such as a local file's.
"""

from typing import Any

from kfp import dsl
from steerlm_kfp.components.annotate.component import annotate
from steerlm_kfp.components.evaluate.component import evaluate
from steerlm_kfp.components.fetch_model.component import fetch_model
from steerlm_kfp.components.prepare_data.component import prepare_data
from steerlm_kfp.components.report.component import report
from steerlm_kfp.components.train_base.component import train_base
from steerlm_kfp.components.train_reward.component import train_reward
from steerlm_kfp.components.train_sft.component import train_sft


def _named(step: str, task: Any) -> Any:
    task.set_display_name(step)
    task.set_caching_options(False)
    return task


@dsl.pipeline(
    name="steerlm",
    description="From ratings to a steerable model: reward model, annotation, fine-tuning",
)
def steerlm(recipe: str, profile: str, options: str = "{}") -> None:
    """Run a recipe.

    Args:
        recipe: The recipe as JSON with every setting, as `steerlm.recipe.load_recipe` resolves it.
        profile: The profile, likewise.
        options: `steerlm.recipe.RunOptions` as JSON: which steps to run.
    """
    run = {"recipe": recipe, "profile": profile, "options": options}

    data = _named("prepare_data", prepare_data(**run)).outputs["data"]
    fetched = _named("fetch_model", fetch_model(step="fetch_model", **run)).outputs["model"]
    base = _named("train_base", train_base(data=data, base=fetched, **run)).outputs["model"]
    own_base = _named("fetch_reward_base", fetch_model(step="fetch_reward_base", **run)).outputs["model"]

    reward = _named("train_reward", train_reward(data=data, own_base=own_base, base=base, **run)).outputs["model"]
    annotated = _named("annotate", annotate(data=data, reward=reward, **run)).outputs["annotated"]

    policy_task = train_sft(step="train_sft", annotated=annotated, data=data, base=base, **run)
    policy = _named("train_sft", policy_task).outputs["model"]
    baseline_task = train_sft(step="train_baseline", annotated=data, data=data, base=base, **run)
    baseline = _named("train_baseline", baseline_task).outputs["model"]

    models = {"reward": reward, "policy": policy, "baseline": baseline}
    evaluation = _named("evaluate", evaluate(data=data, **models, **run)).outputs["evaluation"]
    page = report(data=data, base=base, annotated=annotated, evaluation=evaluation, **models, **run)
    _named("report", page)
