# SPDX-License-Identifier: Apache-2.0
"""`steerlm evaluate steering|reward`: commands of `steerlm.evaluation`."""

from pathlib import Path
from typing import Literal

import typer

app = typer.Typer(
    no_args_is_help=True,
    help="Measure steerability and reward quality; write reports.\n\n"
    "Example: steerlm evaluate reward --model rm --input-file val.jsonl",
)


@app.command()
def steering(
    model: Path | None = typer.Option(None, "--model", help="Folder of the attribute-conditioned model."),
    policy_url: str | None = typer.Option(
        None, "--policy-url", help="An OpenAI-compatible server of the model, which answers; --model is then optional."
    ),
    reward: Path = typer.Option(..., "--reward", help="Folder of the reward model, which judges the answers."),
    questions: Path = typer.Option(..., "--questions", help='JSONL with a "question" or "text" on each line.'),
    output: Path = typer.Option(..., "--output", help="Folder for evaluation.json and report.html."),
    count: int = typer.Option(256, "--count", min=8, help="Questions, with attribute values drawn independently."),
    max_tokens: int = typer.Option(256, "--max-tokens", min=1, help="Tokens of an answer at most."),
    over_long: Literal["error", "keep_end"] = typer.Option(
        "error", "--over-long", help="Texts longer than a window: stop, or judge their end and skip long questions."
    ),
    seed: int = typer.Option(1, "--seed", help="Seed of the drawn attribute values and questions."),
) -> None:
    """Request attribute values, judge the answers, and write a report with a curve for each attribute.

    Example: steerlm evaluate steering --model policy --reward rm --questions q.jsonl --output report
    """
    from steerlm.errors import InputError
    from steerlm.evaluation.config import EvaluationSettings
    from steerlm.evaluation.measure import measure
    from steerlm.evaluation.questions import read_questions
    from steerlm.evaluation.report import ReportData, write_report
    from steerlm.evaluation.served_answerer import ServedAnswerer
    from steerlm.files import write_json

    settings = EvaluationSettings(questions=count, max_tokens=max_tokens, over_long=over_long, seed=seed)
    texts = read_questions(questions)
    if policy_url is None and model is None:
        raise InputError("choose the policy: --model FOLDER, or --policy-url of a server")
    policy = ServedAnswerer(policy_url, settings, model) if policy_url else model
    result = measure(settings=settings, questions=texts, policy=policy, reward=reward)
    measured = result["steering"]
    write_json(output / "evaluation.json", result)
    low, high = measured["range"]
    places = {"model": policy_url or str(model), "reward model": str(reward)}
    name = model.name if model else policy_url
    write_report(
        ReportData(title=f"Steerability of {name}", scale=(low, high), steering=measured, places=places),
        output / "report.html",
    )
    for judge, attributes in measured["judges"].items():
        typer.echo(f"requested and obtained values, by the {judge}:")
        for name, one in attributes.items():
            typer.echo(f"  {name:14} Spearman {one['spearman']:5.2f}   mean distance {one['mae']:.2f}")
    typer.echo(f"report: {output / 'report.html'}")


@app.command()
def reward(
    model: Path = typer.Option(..., "--model", help="Folder of the reward model."),
    input_file: Path = typer.Option(..., "--input-file", help="Labeled conversations (JSONL) it was not trained on."),
    over_long: Literal["error", "keep_end"] = typer.Option(
        "error", "--over-long", help="Texts longer than the model's window: stop, or score their end."
    ),
) -> None:
    """Print for each attribute: MSE, the mean predictor's MSE, Pearson, rounded agreement with the human labels.

    Example: steerlm evaluate reward --model rm --input-file val.jsonl
    """
    from steerlm.evaluation.measure import held_out_quality
    from steerlm.inference.scorer import TransformersScorer
    from steerlm.records import Conversation, read_records

    records = (talk for _, talk in read_records(input_file, Conversation))
    quality = held_out_quality(TransformersScorer(model), records, None, over_long)
    typer.echo(f"{'attribute':14} {'texts':>6} {'MSE':>7} {'of mean':>8} {'Pearson':>8} {'agree':>6}")
    for name, one in quality.items():
        typer.echo(
            f"{name:14} {one['n']:6} {one['mse']:7.3f} {one['mean_predictor_mse']:8.3f}"
            f" {one['pearson']:8.3f} {one['agreement']:6.0%}"
        )
