"""Stage `evaluate`: how well the dials steer and how well the reward model predicts; `evaluation.json`."""

from typing import Any

from steerlm.evaluation.config import EvaluationSettings
from steerlm.recipe import Recipe
from steerlm.records import Conversation, read_records, write_json
from steerlm.stages.base import Inputs, Made, Stage, StageConfig, Work

RESULT = "evaluation.json"


class EvaluateConfig(StageConfig):
    """`oracle`: the questions are the synthetic world's, whose oracle judges too."""

    settings: EvaluationSettings
    oracle: bool


def config(recipe: Recipe, role: str) -> EvaluateConfig | None:
    if recipe.evaluate is None:
        return None
    return EvaluateConfig(settings=recipe.evaluate, oracle=recipe.prepare_data.toyworld is not None)


def make(config: EvaluateConfig, inputs: Inputs, work: Work) -> Made:
    """`data`: its questions and validation conversations; `reward`, `policy`, `baseline`: the models there are."""
    from steerlm.stages.steering import measure, read_questions

    data = inputs["data"].path
    folders = {name: inputs[name].path for name in ("reward", "policy", "baseline") if name in inputs}
    result = measure(
        settings=config.settings,
        questions=read_questions(data / "questions.jsonl"),
        policy=folders.get("policy"),
        reward=folders.get("reward"),
        baseline=folders.get("baseline"),
        held_out=(talk for _, talk in read_records(data / "val.jsonl", Conversation)),
        oracle=config.oracle,
    )
    write_json(work.files / RESULT, result)
    shown = inputs.get("policy") or inputs.get("reward")
    return Made(attributes=shown.attributes if shown else None, metrics=summary(result))


def summary(result: dict[str, Any]) -> dict[str, float]:
    """The numbers that matter by name: `reward_pearson/quality`, `steering_spearman/quality` (by the first judge)."""
    numbers = {f"reward_pearson/{name}": one["pearson"] for name, one in result["quality"].items()}
    if result["steering"]:
        judge = next(iter(result["steering"]["judges"].values()))
        found = {name: one["spearman"] for name, one in judge.items()}
        numbers |= {f"steering_spearman/{name}": value for name, value in found.items()}
        numbers["steering_spearman_mean"] = sum(found.values()) / len(found)
        numbers["questions_too_long"] = result["steering"]["too_long"]
    return numbers


STAGE: Stage[EvaluateConfig] = Stage("evaluate", "evaluation", make, code=(__name__,))
