# SPDX-License-Identifier: Apache-2.0
"""The real pipeline through `kfp.local`, up to its data: hits, changes, failures, signals."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from steerlm.errors import InputError
from steerlm.pipeline.local import PipelineRun, run_pipeline
from steerlm.recipe import ResolvedRecipe, RunOptions, load_recipe
from steerlm.stages.registry import STEPS
from tests.conftest import ROOT
from tests.pipeline.test_step import LINE
from tests.tiny_models import tiny_base


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("train", "val"):
        (folder / f"{name}.jsonl").write_text(json.dumps(LINE) + "\n")
    return folder


def resolve(data: Path, *again: str) -> ResolvedRecipe:
    resolved = load_recipe(
        "demo-real",
        None,
        [
            f"prepare_data.sources=[{{kind: conversations, source: {data}}}]",
            f"profile.store={data.parent / 'store'}",
            "profile.tracking.enabled=false",
        ],
    )
    return replace(resolved, options=RunOptions(until="prepare_data", again=again))


def run(data: Path, *again: str) -> tuple[PipelineRun, list[str]]:
    events: list[str] = []
    return run_pipeline(resolve(data, *again), lambda e: events.append(f"{e['event']} {e['label']}")), events


def test_a_run_a_hit_a_replacement_and_a_change(data: Path) -> None:
    first, events = run(data)
    assert {o["label"]: o["status"] for o in first.outcomes} == {
        label: "run" if label == "prepare_data" else "skipped" for label in STEPS
    }
    assert {"step prepare_data", "start prepare_data", "end prepare_data", "outcome report"} <= set(events)
    assert first.outcome("report")["reason"] == "not asked for"
    prepared = first.outcome("prepare_data")
    assert (Path(prepared["path"]) / "train.jsonl").exists()
    written = json.loads((first.folder / "result.json").read_text())
    assert written["outcomes"] == first.outcomes

    second, _ = run(data)
    assert second.outcome("prepare_data")["status"] == "hit"
    assert second.outcome("prepare_data")["digest"] == prepared["digest"]

    again = run(data, "prepare_data")[0].outcome("prepare_data")
    assert (again["status"], again["reason"]) == ("run", "requested by --again")
    assert (again["digest"], again["path"]) == (prepared["digest"], prepared["path"])
    assert Path(again["log"]).read_text().count("requested by --again") == 1

    with open(data / "train.jsonl", "a") as file:
        file.write(json.dumps(LINE) + "\n")
    third, _ = run(data)
    changed = third.outcome("prepare_data")
    assert (changed["status"], changed["reason"][:37]) == ("run", "section.sources.0.source changed from")
    assert changed["digest"] != prepared["digest"]


def test_a_failure_names_the_step_and_its_log(data: Path) -> None:
    (data / "val.jsonl").write_text("nonsense\n")
    with pytest.raises(
        InputError, match=r"^prepare_data failed: .*val\.jsonl:1: .* \(log: .*/logs/stage\.log\)$"
    ) as caught:
        run(data)
    log = Path(str(caught.value).rpartition("log: ")[2].rstrip(")"))
    assert "val.jsonl:1" in log.read_text()
    # The next run resumes, once the input is good.
    (data / "val.jsonl").write_text(json.dumps(LINE) + "\n")
    assert run(data)[0].outcome("prepare_data")["status"] == "run"


def test_data_that_do_not_fit_the_recipe_end_the_run_before_its_first_training(data: Path) -> None:
    overrides = [
        f"prepare_data.sources=[{{kind: conversations, source: {data}}}]",
        f"base.fetch.uri={tiny_base(data.parent / 'base')}",
        "reward.global_batch=1",
        "sft.global_batch=1",
        f"profile.store={data.parent / 'store'}",
        "profile.tracking.enabled=false",
    ]
    resolved = load_recipe("demo-real", "laptop", overrides)
    with pytest.raises(InputError, match=r"^prepare_data failed: the data are ready .*: evaluate: questions is 32"):
        run_pipeline(resolved, lambda event: None)
    (result,) = (data.parent / "store").glob("runs/*/result.json")
    outcomes = {o["label"]: o["status"] for o in json.loads(result.read_text())["outcomes"]}
    assert outcomes["prepare_data"] == "failed"
    assert not {"train_reward", "annotate", "train_sft"} & outcomes.keys()


def command(store: Path) -> list[str]:
    tail = ["--store", str(store), "--stage", "prepare_data", "--set", "profile.tracking.enabled=false"]
    return [sys.executable, "-m", "steerlm.cli", "run", "demo", *tail]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_a_signal_stops_the_step_that_runs(tmp_path: Path, number: signal.Signals, code: int) -> None:
    process = subprocess.Popen(
        command(tmp_path / "store"),
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 60
    while not any('"start"' in p.read_text() for p in tmp_path.glob("store/runs/*/run_log.jsonl")):
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert errors.strip().splitlines()[-1] in (
        "interrupted; run the same command again to resume",
        "error: prepare_data was stopped; run the same command to resume",
    )
    (result,) = tmp_path.glob("store/runs/*/result.json")
    outcomes = {o["label"]: o for o in json.loads(result.read_text())["outcomes"]}
    assert outcomes["prepare_data"]["code"] == code
    assert "report" not in outcomes


def test_the_command_prints_the_stages(data: Path) -> None:
    text = (ROOT / "pipelines" / "recipes" / "demo-real.yaml").read_text().replace("../shared/data/oasst1", str(data))
    recipe = data.parent / "mine.yaml"
    recipe.write_text(text.replace("kind: oasst", "kind: conversations").replace("folds: 5", "").replace("fold: 0", ""))
    tail = ["--store", str(data.parent / "store"), "--stage", "prepare_data", "--set", "profile.tracking.enabled=false"]
    whole = [sys.executable, "-m", "steerlm.cli", "run", str(recipe), *tail]
    done = subprocess.run(whole, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.split()[1:3] == ["prepare_data", "run"] and "never run before" in line for line in lines), lines
    assert any("train_sft" in line and "skipped" in line and "not asked for" in line for line in lines), lines
    assert any(f"store {data.parent / 'store'}" in line for line in lines[-4:]), lines
