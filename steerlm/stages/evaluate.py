# SPDX-License-Identifier: Apache-2.0
"""Stage `evaluate`: measure how well attributes steer and how well the reward model predicts; `evaluation.json`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from steerlm.evaluation.answerer import Answerer, InProcessAnswerer
from steerlm.evaluation.config import EvaluationSettings
from steerlm.evaluation.job_answerer import WORKER, JobAnswerer
from steerlm.evaluation.job_scorer import WORKER as SCORING_WORKER
from steerlm.evaluation.job_scorer import JobScorer
from steerlm.evaluation.served_answerer import ServedAnswerer
from steerlm.files import write_json
from steerlm.jobs.part_job import needs_job
from steerlm.jobs.place import JobPlace
from steerlm.jobs.registry import LOCAL
from steerlm.recipe import Recipe
from steerlm.records import Conversation, read_records
from steerlm.stages.base import Inputs, Stage, StageConfig, StageContext, StageResult

RESULT = "evaluation.json"


class EvaluateConfig(StageConfig):
    """The settings; with `oracle`, the synthetic world's oracle judges the answers as well."""

    settings: EvaluationSettings
    oracle: bool


def config(recipe: Recipe, role: str) -> EvaluateConfig | None:
    """Return the evaluation's settings, and whether the oracle rates too; None if the stage does not apply."""
    if recipe.evaluate is None:
        return None
    return EvaluateConfig(settings=recipe.evaluate, oracle=recipe.prepare_data.toyworld is not None)


def make(config: EvaluateConfig, inputs: Inputs, context: StageContext) -> StageResult:
    """Measure the models `reward`, `policy` and `baseline`, where given, on questions and conversations of `data`.

    Answers are generated in this process, in a job if the profile's layout `evaluate` has several processes or jobs run
    elsewhere, or by the policy's server if the profile names one.
    """
    from steerlm.evaluation.measure import measure
    from steerlm.evaluation.questions import read_questions

    data = inputs["data"].path
    folders = {name: inputs[name].path for name in ("reward", "policy", "baseline") if name in inputs}
    result = measure(
        settings=config.settings,
        questions=read_questions(data / "questions.jsonl") if "policy" in folders else [],
        policy=_answerer("policy", folders, config.settings, context),
        reward=_scorer(folders.get("reward"), context),
        baseline=_answerer("baseline", folders, config.settings, context),
        held_out=(talk for _, talk in read_records(data / "val.jsonl", Conversation)),
        oracle=config.oracle,
    )
    write_json(context.files / RESULT, result)
    shown = inputs.get("policy") or inputs.get("reward")
    return StageResult(attributes=shown.attributes if shown else None, metrics=summary(result))


def _answerer(
    name: Literal["policy", "baseline"],
    folders: Mapping[str, Path],
    settings: EvaluationSettings,
    context: StageContext,
) -> Answerer | None:
    folder, profile = folders.get(name), context.profile
    if folder is None:
        return None
    if name == "policy" and profile.policy_url:
        return ServedAnswerer(profile.policy_url, settings, folder)
    if not needs_job(profile, profile.layouts.evaluate):
        report = context.report_progress
        return InProcessAnswerer(folder, settings, conditioned=name == "policy", report_progress=report)
    place, parts = _place(name, context), context.scratch / f"answers-{name}"
    conditioned = name == "policy"
    return JobAnswerer(
        folder, settings, profile.layouts.evaluate, place, parts, context.report_progress, conditioned=conditioned
    )


def _scorer(folder: Path | None, context: StageContext) -> Path | JobScorer | None:
    """Return the reward model: on a cluster in jobs with the layout of annotation, else loaded by this process."""
    profile = context.profile
    if folder is None or profile.backend == LOCAL:
        return folder
    parts, report = context.scratch / "scores", context.report_progress
    place, gpu = _place("reward", context), profile.cluster.resources.gpu is not None
    return JobScorer(folder, profile.layouts.annotate, place, parts, report, accelerator=gpu)


def _place(name: str, context: StageContext) -> JobPlace:
    return JobPlace(
        f"{name}-{context.key}",
        context.folder / f"job-{name}",
        context.logs / f"{name}.log",
        context.profile,
        context.image,
        context.report_note,
    )


def summary(result: dict[str, Any]) -> dict[str, float]:
    """Return the main numbers, such as `reward_pearson/quality` and the first judge's `steering_spearman/quality`."""
    numbers = {f"reward_pearson/{name}": one["pearson"] for name, one in result["quality"].items()}
    if result["steering"]:
        judge = next(iter(result["steering"]["judges"].values()))
        correlations = {name: one["spearman"] for name, one in judge.items()}
        numbers |= {f"steering_spearman/{name}": value for name, value in correlations.items()}
        numbers["steering_spearman_mean"] = sum(correlations.values()) / len(correlations)
        numbers["questions_too_long"] = result["steering"]["too_long"]
    return numbers


STAGE: Stage[EvaluateConfig] = Stage("evaluate", "evaluation", make, code=(__name__, WORKER, SCORING_WORKER))
