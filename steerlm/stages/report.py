# SPDX-License-Identifier: Apache-2.0
"""Stage `report`: write one HTML page about a run, and `goals.json`, the recipe's goals and whether they are met."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from steerlm.artifact import LOGS
from steerlm.errors import InputError
from steerlm.files import write_json
from steerlm.recipe import Goals, Recipe
from steerlm.stages.base import METRICS, Inputs, Stage, StageConfig, StageContext, StageResult
from steerlm.stages.evaluate import RESULT
from steerlm.stages.registry import input_titles

if TYPE_CHECKING:
    from steerlm.evaluation.report import Goal

TITLES = input_titles("report")


class ReportConfig(StageConfig):
    """Title and description of the page, and the goals that it checks."""

    name: str
    description: str
    goals: Goals


def config(recipe: Recipe, role: str) -> ReportConfig | None:
    """Return the report's settings; None: the stage does not apply."""
    if recipe.report is None:
        return None
    return ReportConfig(name=recipe.name, description=recipe.description, goals=recipe.report.goals)


def make(config: ReportConfig, inputs: Inputs, context: StageContext) -> StageResult:
    """Write the page from `evaluation`, with the curves, times and paths of every other input."""
    from steerlm.evaluation.report import ReportData, read_metrics, write_report

    evaluation = inputs["evaluation"]
    result = json.loads((evaluation.path / RESULT).read_text(encoding="utf-8"))
    schema = evaluation.attributes
    if schema is None:
        raise InputError(f"{evaluation.uri}: the evaluation names no attributes; run it again")
    goals = check(config.goals, evaluation.manifest.provenance["metrics"])
    present = {name: inputs[name] for name in TITLES if name in inputs}
    curves = {TITLES[n]: read_metrics(a.folder / LOGS / METRICS) for n, a in present.items()}
    places = {TITLES[name]: str(artifact.path) for name, artifact in present.items()}
    if context.profile.tracking.enabled:
        places["MLflow"] = context.profile.tracking.resolve_uri(context.folder.parent.parent)
    write_report(
        ReportData(
            title=config.name,
            scale=(schema.low, schema.high),
            description=config.description,
            steering=result["steering"],
            quality=result["quality"],
            curves={name: lines for name, lines in curves.items() if lines},
            goals=goals,
            stages=[
                {"name": TITLES[n], "seconds": a.manifest.provenance["seconds"], "path": str(a.path)}
                for n, a in present.items()
            ],
            places=places,
            left_out=[
                f"{TITLES[n]}: {t}" for n, a in present.items() for t in a.manifest.provenance.get("dropped", ())
            ],
        ),
        context.files / "report.html",
    )
    write_json(context.files / "goals.json", [{"text": g.text, "value": g.value, "met": g.met} for g in goals])
    return StageResult(attributes=schema, metrics={"goals": len(goals), "goals_met": sum(g.met for g in goals)})


def check(goals: Goals, numbers: Mapping[str, Any]) -> "list[Goal]":
    """Compare each goal with its number: the lowest of the attributes, or the mean."""
    from steerlm.evaluation.report import Goal

    checked = []
    for name, text in (
        ("reward_pearson", "reward model: Pearson of every attribute"),
        ("steering_spearman", "requested and obtained attributes: Spearman of every attribute"),
        ("steering_spearman_mean", "requested and obtained attributes: mean Spearman"),
    ):
        threshold = getattr(goals, name)
        values = {k.partition("/")[2]: v for k, v in numbers.items() if k.partition("/")[0] == name}
        if threshold is None or not values:
            continue
        lowest = min(values, key=lambda k: values[k])
        shown = f"{values[lowest]:.3f}" + (f" ({lowest})" if lowest else "")
        checked.append(Goal(f"{text} at least {threshold:g}", shown, bool(values[lowest] >= threshold)))
    return checked


STAGE: Stage[ReportConfig] = Stage("report", "report", make, code=(__name__,))
