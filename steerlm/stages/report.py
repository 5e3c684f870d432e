# SPDX-License-Identifier: Apache-2.0
"""Stage `report`: one HTML page of a run, and `goals.json`: what was promised and whether it is kept."""

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
    name: str
    description: str
    goals: Goals


def config(recipe: Recipe, role: str) -> ReportConfig | None:
    if recipe.report is None:
        return None
    return ReportConfig(name=recipe.name, description=recipe.description, goals=recipe.report.goals)


def make(config: ReportConfig, inputs: Inputs, work: StageContext) -> StageResult:
    """`evaluation` and whatever else the run made: their curves, times and places."""
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
    if work.profile.tracking.enabled:
        places["MLflow"] = work.profile.tracking.resolve_uri(work.folder.parent.parent)
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
        ),
        work.files / "report.html",
    )
    write_json(work.files / "goals.json", [{"text": g.text, "value": g.value, "met": g.met} for g in goals])
    return StageResult(attributes=schema, metrics={"goals": len(goals), "goals_met": sum(g.met for g in goals)})


def check(goals: Goals, numbers: Mapping[str, Any]) -> "list[Goal]":
    """Each goal beside the number that decides it: the least of the attributes, or the mean."""
    from steerlm.evaluation.report import Goal

    found = []
    for name, text in (
        ("reward_pearson", "reward model: Pearson of every attribute"),
        ("steering_spearman", "asked against obtained: Spearman of every attribute"),
        ("steering_spearman_mean", "asked against obtained: mean Spearman"),
    ):
        wanted = getattr(goals, name)
        values = {k.partition("/")[2]: v for k, v in numbers.items() if k.partition("/")[0] == name}
        if wanted is None or not values:
            continue
        least = min(values, key=lambda k: values[k])
        said = f"{values[least]:.3f}" + (f" ({least})" if least else "")
        found.append(Goal(f"{text} at least {wanted:g}", said, bool(values[least] >= wanted)))
    return found


STAGE: Stage[ReportConfig] = Stage("report", "report", make, code=(__name__,))
