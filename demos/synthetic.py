# SPDX-License-Identifier: Apache-2.0
"""`make demo`: run the shipped recipe `demo`, from data generation to a served, steerable model.

Runs the pipeline, serves the policy, answers a question with several attribute settings, prints the correlations of
requested and obtained values, writes `summary.json`, and fails if a goal of the recipe is missed.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from steerlm.cli.run import Display
from steerlm.client import encode_labels, get_answer, request_json
from steerlm.errors import SteerLMError
from steerlm.files import write_json
from steerlm.pipeline.local import PipelineRun, run_pipeline
from steerlm.pipeline.results import MODELS, Results, link, next_steps
from steerlm.recipe import ResolvedRecipe, load_recipe

SEEDED = ("prepare_data.sources.0", "base.train", "reward", "sft", "baseline", "evaluate")
REQUESTS: tuple[dict[str, int], ...] = (
    {"humor": 4, "verbosity": 0},
    {"humor": 0, "verbosity": 4, "complexity": 4},
    {"toxicity": 4, "correctness": 0},
)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="seed of the world, of training and of the questions")
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="output folder")
    options = parser.parse_args(argv)
    started = time.monotonic()
    seeds = [f"{section}.seed={options.seed}" for section in SEEDED]
    resolved = load_recipe("demo", None, [*seeds, f"profile.store={options.output.resolve() / 'store'}"])
    run = run_pipeline(resolved, Display())
    results = Results.of(run)
    artifacts = results.artifacts
    ask(artifacts["train_sft"].path, artifacts["prepare_data"].path / "questions.jsonl")
    goals = json.loads((artifacts["report"].path / "goals.json").read_text(encoding="utf-8"))
    summary = summarize(resolved, run, results, goals, time.monotonic() - started)
    write_json(options.output / "summary.json", summary)
    show(results, link(results, options.output), goals, summary)
    return 0 if goals and all(goal["met"] for goal in goals) else 1


def summarize(
    resolved: ResolvedRecipe,
    run: PipelineRun,
    results: Results,
    goals: list[Mapping[str, Any]],
    seconds: float,
) -> dict[str, Any]:
    """Return the metrics and paths of a run, the content of `summary.json`."""
    result = results.evaluation
    steering = result["steering"]["judges"]["oracle"]
    trained = {name: results.metrics(steps[0]) for name, steps in MODELS.items()}
    return {
        "seconds": {o["label"]: round(o["seconds"], 1) for o in run.outcomes if "path" in o}
        | {"total": round(seconds, 1)},
        "reward_pearson": {name: one["pearson"] for name, one in result["quality"].items()},
        "steering_spearman": {name: one["spearman"] for name, one in steering.items()},
        "baseline_spearman": {n: one["spearman"] for n, one in result["steering"]["baseline"]["oracle"].items()},
        "real_token_share": {name: metrics["real_token_share"] for name, metrics in trained.items()},
        "tokens": {name: metrics["tokens"] for name, metrics in trained.items()},
        "goals": goals,
        "models": {name: str(path) for name, path in results.models.items()},
        "report": str(results.report),
        "mlflow": resolved.profile.tracking.resolve_uri(run.store.root),
        "store": run.store.uri,
    }


def ask(policy: Path, questions: Path) -> None:
    """Serve the policy and print its answers to a held-out question with several attribute settings."""
    question = json.loads(questions.read_text(encoding="utf-8").splitlines()[0])["question"]
    with serving(policy) as port:
        schema = request_json(f"http://127.0.0.1:{port}/v1/model")["attributes"]
        echo(f"\n{question}")
        for requested in REQUESTS:
            labels = {n: requested.get(n, schema["defaults"].get(n, schema["high"])) for n in schema["names"]}
            answer = get_answer(question, 128, encode_labels(labels), eval_port=port)
            echo(f"  {encode_labels(requested):40} {answer}")


@contextmanager
def serving(policy: Path) -> Iterator[int]:
    """Run `steerlm serve generate` in a subprocess and yield its port."""
    command = [sys.executable, "-m", "steerlm.cli", "serve", "generate", str(policy), "--port", str(free_port())]
    with open(policy.parent / "logs" / "serve.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_ready(process, int(command[-1]), Path(log.name))
            yield int(command[-1])
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_ready(process: "subprocess.Popen[bytes]", port: int, log: Path, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        try:
            request_json(f"http://127.0.0.1:{port}/ready")
        except SteerLMError:
            time.sleep(0.3)
        else:
            return
    raise SteerLMError(f"the server did not become ready; see {log}")


def show(
    results: Results, links: Mapping[str, Path], goals: list[Mapping[str, Any]], summary: Mapping[str, Any]
) -> None:
    """Print the table of the attributes, the goals, and the paths of the results."""
    echo("\n".join(["", *results.lines(), ""]))
    for goal in goals:
        echo(f"  {'met   ' if goal['met'] else 'MISSED'} {goal['text']}: {goal['value']}")
    echo("\n".join(["", *next_steps(results, links)]))
    echo(f"\nMLflow   {summary['mlflow']}\ntotal    {summary['seconds']['total']:.0f} s")


def echo(text: str) -> None:
    sys.stdout.write(text + "\n")


def exit_with(command: Callable[[], int]) -> NoReturn:
    """Run a demo's command and exit with its status; errors are printed on one line."""
    try:
        sys.exit(command())
    except SteerLMError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; run the same command to resume\n")
        sys.exit(130)


if __name__ == "__main__":
    exit_with(main)
