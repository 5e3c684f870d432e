# SPDX-License-Identifier: Apache-2.0
"""The steps of the pipeline: the one list from which command line, pipeline, report and planning derive.

A step is a stage in a role: `train_sft` and `train_baseline` both run the stage `train_sft`. Importing this module
imports no stage, so that skipping a step costs nothing.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from steerlm.errors import ConfigError, nearest

if TYPE_CHECKING:
    from steerlm.recipe import Recipe

NO_SECTION = "the recipe has no such section"
NOT_REQUESTED = "not asked for"


@dataclass(frozen=True, slots=True)
class Step:
    """A stage in a role.

    Args:
        stage: Name of the stage and of its module in `steerlm.stages`.
        section: The recipe's section, such as `base.train`; the step does not apply where it is null.
        title: What its artifact is called in reports.
        inputs: The stage's inputs by name, each with the steps that may provide it; the first that applies does.
        role: Passed to the stage's `config` function.
        passes_on: The input that is passed on as the result if the step does not apply.
    """

    stage: str
    section: str
    title: str
    inputs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    role: str = ""
    passes_on: str | None = None


STEPS: Mapping[str, Step] = {
    "prepare_data": Step("prepare_data", "prepare_data", "data"),
    "fetch_model": Step("fetch_model", "base.fetch", "fetched base model", role="policy"),
    "train_base": Step(
        "train_base",
        "base.train",
        "base model",
        {"data": ("prepare_data",), "base": ("fetch_model",)},
        passes_on="base",
    ),
    "fetch_reward_base": Step("fetch_model", "base.reward", "base of the reward model", role="reward"),
    "train_reward": Step(
        "train_reward",
        "reward",
        "reward model",
        {"data": ("prepare_data",), "base": ("fetch_reward_base", "train_base")},
    ),
    "annotate": Step(
        "annotate", "annotate", "annotated data", {"data": ("prepare_data",), "reward": ("train_reward",)}
    ),
    "train_sft": Step(
        "train_sft",
        "sft",
        "policy",
        {"data": ("annotate", "prepare_data"), "base": ("train_base",)},
        role="policy",
    ),
    "train_baseline": Step(
        "train_sft",
        "baseline",
        "baseline without attributes",
        {"data": ("prepare_data",), "base": ("train_base",)},
        role="baseline",
    ),
    "evaluate": Step(
        "evaluate",
        "evaluate",
        "evaluation",
        {
            "data": ("prepare_data",),
            "reward": ("train_reward",),
            "policy": ("train_sft",),
            "baseline": ("train_baseline",),
        },
    ),
    "report": Step(
        "report",
        "report",
        "report",
        {
            "data": ("prepare_data",),
            "base": ("train_base",),
            "reward": ("train_reward",),
            "annotated": ("annotate",),
            "policy": ("train_sft",),
            "baseline": ("train_baseline",),
            "evaluation": ("evaluate",),
        },
    ),
}
"""In pipeline order, by the name that `--stage`, run logs and MLflow use."""


def find_step(name: str) -> Step:
    """Return a step by name. Raises `ConfigError` with the nearest known name."""
    if name not in STEPS:
        raise ConfigError(f"unknown stage {name!r}{nearest(name, STEPS)}")
    return STEPS[name]


def requested_steps(until: str | None) -> frozenset[str]:
    """Return the step `until` and every step it depends on; all steps without it."""
    return frozenset(STEPS if until is None else _with_producers(until))


def skip_reason(name: str, recipe: Mapping[str, object], until: str | None) -> str | None:
    """Return why a step does not run, or None if it does. `recipe` is the recipe's JSON object."""
    step = find_step(name)
    if name not in requested_steps(until):
        return NOT_REQUESTED
    value: object = recipe
    for key in step.section.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return NO_SECTION if value is None else None


def select_sections(recipe: "Recipe", until: str | None) -> "Recipe":
    """Return the recipe without the sections of steps that are not requested, for planning and checks before a run."""
    requested = requested_steps(until)
    left_out = [step.section.split(".") for name, step in STEPS.items() if name not in requested]
    top: dict[str, object] = {keys[0]: None for keys in left_out if len(keys) == 1}
    base = dict.fromkeys((keys[1] for keys in left_out if len(keys) == 2), None)
    if recipe.base and base:
        selected = recipe.base.model_copy(update=base)
        top["base"] = selected if any(getattr(selected, name) for name in ("fetch", "train", "reward")) else None
    return recipe.model_copy(update=top)


def input_titles(name: str) -> dict[str, str]:
    """Return the titles of a step's inputs by input name."""
    return {key: STEPS[producers[0]].title for key, producers in STEPS[name].inputs.items()}


def _with_producers(name: str) -> Iterator[str]:
    yield name
    for producers in find_step(name).inputs.values():
        for producer in producers:
            yield from _with_producers(producer)
