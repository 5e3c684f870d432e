# SPDX-License-Identifier: Apache-2.0
"""`steerlm evaluate steering|reward`: thin commands over `steerlm.evaluation.measure`."""

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
        None, "--policy-url", help="An OpenAI-compatible server of it, which answers; --model may then be left out."
    ),
    reward: Path = typer.Option(..., "--reward", help="Folder of the reward model that judges the answers."),
    questions: Path = typer.Option(..., "--questions", help='JSONL with a "question" or "text" on each line.'),
    output: Path = typer.Option(..., "--output", help="Folder for evaluation.json and report.html."),
    count: int = typer.Option(256, "--count", min=8, help="Questions asked with dials drawn independently."),
    max_tokens: int = typer.Option(256, "--max-tokens", min=1, help="Tokens an answer may take."),
    over_long: Literal["error", "keep_end"] = typer.Option(
        "error", "--over-long", help="Beyond a window: stop, or judge texts by their end and leave long questions out."
    ),
    seed: int = typer.Option(1, "--seed", help="Seed of the drawn dials and questions."),
) -> None:
    """Ask with the dials set, judge the answers, write a report with a curve per dial.

    Example: steerlm evaluate steering --model policy --reward rm --questions q.jsonl --output report
    """
    from steerlm.errors import InputError
    from steerlm.evaluation.answering import ServedAnswerer
    from steerlm.evaluation.config import EvaluationSettings
    from steerlm.evaluation.measure import measure, read_questions
    from steerlm.evaluation.report import ReportData, write_report
    from steerlm.files import write_json

    settings = EvaluationSettings(questions=count, max_tokens=max_tokens, over_long=over_long, seed=seed)
    asked = read_questions(questions)
    if policy_url is None and model is None:
        raise InputError("say which policy answers: --model FOLDER, or --policy-url of a server")
    policy = ServedAnswerer(policy_url, settings, model) if policy_url else model
    result = measure(settings=settings, questions=asked, policy=policy, reward=reward)
    found = result["steering"]
    write_json(output / "evaluation.json", result)
    low, high = found["range"]
    places = {"model": policy_url or str(model), "reward model": str(reward)}
    name = model.name if model else policy_url
    write_report(
        ReportData(title=f"Steerability of {name}", scale=(low, high), steering=found, places=places),
        output / "report.html",
    )
    for judge, attributes in found["judges"].items():
        typer.echo(f"asked against obtained, by the {judge}:")
        for name, one in attributes.items():
            typer.echo(f"  {name:14} Spearman {one['spearman']:5.2f}   mean distance {one['mae']:.2f}")
    typer.echo(f"report: {output / 'report.html'}")


@app.command()
def reward(
    model: Path = typer.Option(..., "--model", help="Folder of the reward model."),
    input_file: Path = typer.Option(..., "--input-file", help="Labelled conversations (JSONL) it was not trained on."),
    over_long: Literal["error", "keep_end"] = typer.Option(
        "error", "--over-long", help="Texts longer than the model's window: stop, or score their end."
    ),
) -> None:
    """Per attribute: MSE beside the mean predictor's, Pearson, rounded agreement with the human labels.

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
