# SPDX-License-Identifier: Apache-2.0
"""`steerlm evaluate steering|reward`: commands of `steerlm.evaluation`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from steerlm.evaluation.answerer import Answerer
    from steerlm.evaluation.config import EvaluationSettings
    from steerlm.records import Conversation

app = typer.Typer(
    no_args_is_help=True,
    help="Measure steerability and reward quality; write reports.\n\n"
    "Example: steerlm evaluate reward --model rm --input-file val.jsonl",
)


MOST_QUESTIONS = 256
"""Asked without --count, where a file has more."""
FEWEST_QUESTIONS = 8
"""Fewer say nothing about how requested and obtained values correlate."""


@app.command()
def steering(
    model: Path | None = typer.Option(None, "--model", help="Folder of the attribute-conditioned model."),
    policy_url: str | None = typer.Option(
        None, "--policy-url", help="An OpenAI-compatible server of the model, which answers; --model is then optional."
    ),
    reward: Path = typer.Option(..., "--reward", help="Folder of the reward model, which judges the answers."),
    questions: Path = typer.Option(
        ..., "--questions", help="Questions: JSON lines or a JSON list (also MT-bench's), or text, one a line."
    ),
    held_out: Path | None = typer.Option(
        None, "--held-out", help="Labeled conversations (JSONL); adds how well the reward model predicts their labels."
    ),
    output: Path = typer.Option(..., "--output", help="Folder for evaluation.json and report.html."),
    count: int | None = typer.Option(
        None,
        "--count",
        min=FEWEST_QUESTIONS,
        help=f"Questions to ask, with values drawn independently. Default: all, at most {MOST_QUESTIONS}.",
    ),
    max_tokens: int = typer.Option(256, "--max-tokens", min=1, help="Tokens of an answer at most."),
    over_long: Literal["error", "keep_end"] = typer.Option(
        "error", "--over-long", help="Texts longer than a window: stop, or judge their end and skip long questions."
    ),
    seed: int = typer.Option(1, "--seed", help="Seed of the drawn attribute values and questions."),
) -> None:
    """Measure how a model follows its dials. Requests attribute values, judges the answers, writes a report.

    Example: steerlm evaluate steering --model policy --reward rm --questions q.jsonl --output report
    """
    from steerlm.evaluation.config import EvaluationSettings
    from steerlm.evaluation.measure import measure
    from steerlm.evaluation.questions import read_questions
    from steerlm.evaluation.report import ReportData, write_report
    from steerlm.files import write_json

    texts = read_questions(questions)
    asked = _count(questions, len(texts), count)
    labeled = _conversations(held_out) if held_out else None
    settings = EvaluationSettings(questions=asked, max_tokens=max_tokens, over_long=over_long, seed=seed)
    policy = _policy(policy_url, model, settings)
    if over_long == "keep_end" and count is None:
        asked = _count(questions, len(policy.fitting(texts)), count)
        settings = settings.model_copy(update={"questions": asked})
    result = measure(settings=settings, questions=texts, policy=policy, reward=reward, held_out=labeled)
    measured, quality = result["steering"], result["quality"]
    write_json(output / "evaluation.json", result)
    low, high = measured["range"]
    places = {"model": policy_url or str(model), "reward model": str(reward), "questions": str(questions)}
    if held_out:
        places["held-out conversations"] = str(held_out)
    name = model.name if model else policy_url
    title = f"Steerability of {name}"
    write_report(
        ReportData(title=title, scale=(low, high), steering=measured, quality=quality, places=places),
        output / "report.html",
    )
    for judge, attributes in measured["judges"].items():
        typer.echo(f"requested and obtained values of {measured['questions']} questions, by the {judge}:")
        for name, one in attributes.items():
            typer.echo(f"  {name:14} Spearman {one['spearman']:5.2f}   mean distance {one['mae']:.2f}")
    if measured["untrained"]:
        typer.echo(f"the reward model was not trained on {', '.join(measured['untrained'])}: its scores mean nothing")
    if measured["too_long"]:
        typer.echo(f"{measured['too_long']} questions leave no room for an answer of {max_tokens} tokens; not asked")
    if quality:
        typer.echo("the reward model on held-out conversations:")
        _show_quality(quality)
    typer.echo(f"report: {output / 'report.html'}")


@app.command()
def reward(
    model: Path = typer.Option(..., "--model", help="Folder of the reward model."),
    input_file: Path = typer.Option(..., "--input-file", help="Labeled conversations (JSONL) it was not trained on."),
    over_long: Literal["error", "keep_end"] = typer.Option(
        "error", "--over-long", help="Texts longer than the model's window: stop, or score their end."
    ),
) -> None:
    """Measure how a reward model predicts labels. Prints MSE, the mean predictor's, Pearson, agreement when rounded.

    Example: steerlm evaluate reward --model rm --input-file val.jsonl
    """
    from steerlm.evaluation.measure import held_out_quality
    from steerlm.inference.scorer import TransformersScorer

    conversations = _conversations(input_file)
    _show_quality(held_out_quality(TransformersScorer(model), conversations, None, over_long))


def _policy(url: str | None, model: Path | None, settings: "EvaluationSettings") -> "Answerer":
    from steerlm.errors import InputError
    from steerlm.evaluation.answerer import InProcessAnswerer
    from steerlm.evaluation.served_answerer import ServedAnswerer

    if url is not None:
        return ServedAnswerer(url, settings, model)
    if model is None:
        raise InputError("choose the policy: --model FOLDER, or --policy-url of a server")
    return InProcessAnswerer(model, settings)


def _count(path: Path, there: int, wanted: int | None) -> int:
    """Return how many of a file's questions are asked; raises `InputError` if it has too few."""
    from steerlm.errors import InputError

    if there < (needed := wanted or FEWEST_QUESTIONS):
        raise InputError(f"{path}: {there} questions can be asked, {needed} are needed")
    return wanted or min(there, MOST_QUESTIONS)


def _conversations(path: Path) -> "list[Conversation]":
    """Read labeled conversations, before a model is loaded."""
    from steerlm.records import Conversation, read_records

    return [talk for _, talk in read_records(path, Conversation)]


def _show_quality(quality: "Mapping[str, Mapping[str, Any]]") -> None:
    typer.echo(f"{'attribute':14} {'texts':>6} {'MSE':>7} {'of mean':>8} {'Pearson':>8} {'agree':>6}")
    for name, one in quality.items():
        typer.echo(
            f"{name:14} {one['n']:6} {one['mse']:7.3f} {one['mean_predictor_mse']:8.3f}"
            f" {one['pearson']:8.3f} {one['agreement']:6.0%}"
        )
