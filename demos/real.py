# SPDX-License-Identifier: Apache-2.0
"""`make demo-real DATA=folder`: run the pipeline on real input, OASST1's English validation split and stories260K.

The data are split by tree into five folds. The reward model of each fold is trained on four fifths and validated on the
rest; the first fold also runs annotation, fine-tuning, evaluation and the report. Then stories260K is imported,
exported and served, and must generate its golden text exactly. The demo fails if the mean validation MSE of `quality`
is not below the mean predictor's, or if the text differs.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

from demos.synthetic import echo, exit_with, serving
from steerlm.cli.run import Display
from steerlm.client import request_json
from steerlm.errors import InputError
from steerlm.files import write_json
from steerlm.pipeline.local import run_pipeline
from steerlm.recipe import RunOptions, load_recipe

FOLDS = 5
ATTRIBUTE = "quality"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make demo-real", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with oasst1/, stories260K/ and goldens/")
    parser.add_argument("--output", type=Path, default=Path("runs/demo-real"), help="output folder")
    options = parser.parse_args(argv)
    for part in ("oasst1", "stories260K", "goldens/stories260K_greedy_200.txt"):
        if not (options.data / part).exists():
            raise InputError(f"{options.data / part}: not found; DATA must be a folder that contains {part}")
    started = time.monotonic()
    folds = [fold(options.data, options.output, number) for number in range(FOLDS)]
    model, constant = (sum(one[k] for one in folds) / FOLDS for k in ("mse", "mean_predictor_mse"))
    matches = golden_matches(options.data, options.output)
    echo(f"\n{'fold':>4} {'MSE of ' + ATTRIBUTE:>15} {'mean predictor':>15} {'Pearson':>8}")
    for number, one in enumerate(folds):
        echo(f"{number:4} {one['mse']:15.3f} {one['mean_predictor_mse']:15.3f} {one['pearson']:8.3f}")
    echo(
        f"mean {model:15.3f} {constant:15.3f}    {'met' if model < constant else 'MISSED'}: below the mean predictor's"
    )
    echo(f"stories260K, imported, exported and served, generates its golden text: {'yes' if matches else 'NO'}")
    seconds = round(time.monotonic() - started, 1)
    write_json(
        options.output / "summary.json",
        {"seconds": seconds, "folds": folds, "mse": model, "mean_predictor_mse": constant, "golden": matches},
    )
    return 0 if model < constant and matches else 1


def fold(data: Path, output: Path, number: int) -> dict[str, float]:
    """Run one fold and return the reward model's validation metrics for the attribute. Fold 0 runs every stage."""
    echo(f"\nfold {number}")
    settings = {
        "prepare_data.sources.0.source": data.resolve() / "oasst1" / "en-validation.jsonl",
        "prepare_data.sources.0.fold": number,
        "base.fetch.uri": data.resolve() / "stories260K",
        "profile.store": output.resolve() / "store",
    }
    resolved = load_recipe("demo-real", None, [f"{key}={value}" for key, value in settings.items()])
    if number:
        resolved = replace(resolved, options=RunOptions(until="train_reward"))
    run = run_pipeline(resolved, Display())
    outcome = run.outcome("train_reward")
    metrics = run.store.open(outcome["stage"], outcome["key"]).manifest.provenance["metrics"]
    return {name: metrics[f"validation/{name}/{ATTRIBUTE}"] for name in ("mse", "mean_predictor_mse", "pearson")}


def golden_matches(data: Path, output: Path) -> bool:
    """Return whether stories260K, imported, exported and served, generates its golden text greedily."""
    from steerlm.megatron.convert import export_hf, import_hf

    checkpoint, folder = output / "stories260K" / "checkpoint", output / "stories260K" / "model"
    if not (folder / "steerlm.json").exists():
        import_hf(data / "stories260K", checkpoint)
        export_hf(checkpoint, folder)
    (folder.parent / "logs").mkdir(exist_ok=True)
    request = {"sentences": [""], "tokens_to_generate": 200, "greedy": True, "add_BOS": True}
    with serving(folder) as port:
        reply = request_json(f"http://127.0.0.1:{port}/generate", request, method="PUT")
    expected = (data / "goldens" / "stories260K_greedy_200.txt").read_text(encoding="utf-8")
    return bool(reply["sentences"] == [expected])


if __name__ == "__main__":
    exit_with(main)
