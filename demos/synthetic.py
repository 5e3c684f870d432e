# SPDX-License-Identifier: Apache-2.0
"""`make demo`: the shipped recipe `demo`, from nothing to a served model that answers to its dials.

Runs the pipeline, serves the policy, asks it with other dials, prints asked against obtained, writes `summary.json`,
and fails if a goal of the recipe is missed.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from steerlm.artifact import Artifact
from steerlm.cli.run import Display
from steerlm.client import encode_labels, get_answer, request_json
from steerlm.errors import SteerLMError
from steerlm.files import write_json
from steerlm.pipeline.local import PipelineRun, run_pipeline
from steerlm.recipe import ResolvedRecipe, load_recipe

SEEDED = ("prepare_data.sources.0", "base.train", "reward", "sft", "baseline", "evaluate")
MODELS = {"base": "train_base", "reward": "train_reward", "policy": "train_sft", "baseline": "train_baseline"}
ASKED = ({"humor": 4, "verbosity": 0}, {"humor": 0, "verbosity": 4, "complexity": 4}, {"toxicity": 4, "correctness": 0})


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="seed of the world, of training and of the questions")
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="where everything is kept")
    options = parser.parse_args(argv)
    began = time.monotonic()
    seeds = [f"{section}.seed={options.seed}" for section in SEEDED]
    resolved = load_recipe("demo", None, [*seeds, f"profile.store={options.output.resolve() / 'store'}"])
    run = run_pipeline(resolved, Display())
    found = {o["label"]: run.store.open(o["stage"], o["key"]) for o in run.outcomes if "path" in o}
    ask(found["train_sft"].path, found["prepare_data"].path / "questions.jsonl")
    result = json.loads((found["evaluate"].path / "evaluation.json").read_text(encoding="utf-8"))
    goals = json.loads((found["report"].path / "goals.json").read_text(encoding="utf-8"))
    summary = summarize(resolved, run, found, result, goals, time.monotonic() - began)
    write_json(options.output / "summary.json", summary)
    link_models(options.output, summary["models"])
    show(result, goals, summary)
    return 0 if goals and all(goal["met"] for goal in goals) else 1


def summarize(
    resolved: ResolvedRecipe,
    run: PipelineRun,
    found: Mapping[str, Artifact],
    result: Mapping[str, Any],
    goals: list[Mapping[str, Any]],
    seconds: float,
) -> dict[str, Any]:
    """The numbers and places of a run, as `summary.json` keeps them."""
    steering = result["steering"]["judges"]["oracle"]
    trained = {name: found[label].manifest.provenance["metrics"] for name, label in MODELS.items()}
    return {
        "seconds": {o["label"]: round(o["seconds"], 1) for o in run.outcomes if "path" in o}
        | {"total": round(seconds, 1)},
        "reward_pearson": {name: one["pearson"] for name, one in result["quality"].items()},
        "steering_spearman": {name: one["spearman"] for name, one in steering.items()},
        "baseline_spearman": {n: one["spearman"] for n, one in result["steering"]["baseline"]["oracle"].items()},
        "real_token_share": {name: metrics["real_token_share"] for name, metrics in trained.items()},
        "tokens": {name: metrics["tokens"] for name, metrics in trained.items()},
        "goals": goals,
        "models": {name: str(found[label].path) for name, label in MODELS.items()},
        "report": str(found["report"].path / "report.html"),
        "mlflow": resolved.profile.tracking.resolve_uri(run.store.root),
        "store": run.store.uri,
    }


def link_models(folder: Path, models: Mapping[str, str]) -> None:
    """Make `folder`/policy and its like lead to the models of the latest run, which lie deep in the store."""
    for name, path in models.items():
        link = folder / name
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(path, folder.resolve()))  # relative: `folder` may be moved


def ask(policy: Path, questions: Path) -> None:
    """Serve the policy and ask a held-out question with other dials, as an application would."""
    question = json.loads(questions.read_text(encoding="utf-8").splitlines()[0])["question"]
    with serving(policy) as port:
        schema = request_json(f"http://127.0.0.1:{port}/v1/model")["attributes"]
        echo(f"\n{question}")
        for dials in ASKED:
            labels = {n: dials.get(n, schema["defaults"].get(n, schema["high"])) for n in schema["names"]}
            answer = get_answer(question, 128, encode_labels(labels), eval_port=port)
            echo(f"  {encode_labels(dials):40} {answer}")


@contextmanager
def serving(policy: Path) -> Iterator[int]:
    """`steerlm serve generate` in a process of its own; yields its port."""
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


def show(result: Mapping[str, Any], goals: list[Mapping[str, Any]], summary: Mapping[str, Any]) -> None:
    """A table per attribute, the goals, and where things are."""
    judges = result["steering"]["judges"]
    baseline = result["steering"]["baseline"]["oracle"]
    echo(f"\nasked against obtained, {result['steering']['questions']} held-out questions, dials drawn independently:")
    heads = ("Spearman (oracle)", "(reward model)", "(baseline)", "reward Pearson")
    echo(f"  {'attribute':14} {heads[0]:>18} {heads[1]:>15} {heads[2]:>11} {heads[3]:>15}")
    for name, one in judges["oracle"].items():
        other, quality = judges["reward model"][name], result["quality"][name]
        echo(
            f"  {name:14} {one['spearman']:18.2f} {other['spearman']:15.2f} {baseline[name]['spearman']:11.2f}"
            f" {quality['pearson']:15.2f}"
        )
    echo("")
    for goal in goals:
        echo(f"  {'met   ' if goal['met'] else 'MISSED'} {goal['text']}: {goal['value']}")
    echo(f"\nreport   {summary['report']}\nMLflow   {summary['mlflow']}\npolicy   {summary['models']['policy']}")
    echo(f"total    {summary['seconds']['total']:.0f} s")


def echo(text: str) -> None:
    sys.stdout.write(text + "\n")


def exit_with(command: Callable[[], int]) -> NoReturn:
    """Run a demo's command and leave with its status; an error is one line."""
    try:
        sys.exit(command())
    except SteerLMError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on\n")
        sys.exit(130)


if __name__ == "__main__":
    exit_with(main)
