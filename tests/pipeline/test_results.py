# SPDX-License-Identifier: Apache-2.0
"""What a finished run shows: table, verdict, what was left out, links, commands."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from steerlm.pipeline.results import Results, fetch_commands, link, next_steps

NAMES = ("quality", "helpfulness")


def artifact(path: Path, **provenance: Any) -> Any:
    path.mkdir(parents=True, exist_ok=True)
    return SimpleNamespace(
        kind="files",
        path=path,
        uri=f"s3://bucket/{path.name}",
        manifest=SimpleNamespace(provenance={"metrics": {}} | provenance),
    )


def results(store: Path, key: str = "key") -> Results:
    """Return the results of a run whose policy is named by its key."""
    judged = {name: {"spearman": 0.2} for name in NAMES}
    steering = {
        "attributes": NAMES,
        "questions": 256,
        "judges": {"oracle": judged, "reward model": judged},
        "baseline": {"oracle": {name: {"spearman": -0.01} for name in NAMES}},
    }
    made = {
        "fetch_model": artifact(store / "base"),
        "train_reward": artifact(store / "reward", dropped=["374 of 384 samples (97 %) were over-long"]),
        "train_sft": artifact(store / "train_sft" / key / "policy", metrics={"steps": 9}),
        "evaluate": artifact(store / "evaluation"),
        "report": artifact(store / "report"),
    }
    (made["train_sft"].path / "steerlm.json").write_text(key)
    (made["report"].path / "report.html").write_text("<html>")
    quality = {name: {"pearson": 0.91} for name in NAMES}
    (made["evaluate"].path / "evaluation.json").write_text(json.dumps({"steering": steering, "quality": quality}))
    return Results(made)


def test_a_table_with_a_verdict_and_what_was_left_out(tmp_path: Path) -> None:
    lines = results(tmp_path).lines()
    assert lines == [
        "Spearman of requested and obtained values; reward r: Pearson with ratings",
        "attribute    oracle  reward model  baseline  reward r  verdict",
        "quality        0.20          0.20     -0.01      0.91  not steerable yet",
        "helpfulness    0.20          0.20     -0.01      0.91  not steerable yet",
        "",
        "not steerable yet: the policy follows no attribute",
        "The policy does not follow quality, helpfulness well after 9 steps: "
        "train it longer (sft.epochs, sft.max_steps), on more conversations, or start from a larger model.",
        "train_reward: 374 of 384 samples (97 %) were over-long",
    ]


def test_a_reward_model_alone_is_judged_by_its_validation(tmp_path: Path) -> None:
    metrics = {"steps": 3, "validation/pearson": 0.5, "validation/pearson/quality": 0.8}
    lines = Results({"train_reward": artifact(tmp_path, metrics=metrics)}).lines()
    assert lines == [
        "reward r: Pearson with ratings",
        "attribute  reward r  verdict",
        "quality        0.80  known",
        "",
        "the reward model knows 1 of 1 attributes",
    ]
    assert Results({"prepare_data": artifact(tmp_path)}).lines() == []


def test_links_point_to_the_latest_models_even_after_the_folder_moves(tmp_path: Path) -> None:
    output = tmp_path / "demo"
    for key in ("old", "new"):
        made = results(output / "store", key)
        links = link(made, output)
        assert set(links) == {"base", "reward", "policy", "report.html"}
    assert (output / "policy" / "steerlm.json").read_text() == "new"
    output.rename(tmp_path / "moved")
    assert (tmp_path / "moved" / "policy" / "steerlm.json").read_text() == "new"
    assert (tmp_path / "moved" / "report.html").read_text() == "<html>"
    # The server's model id is the resolved folder's name.
    assert (tmp_path / "moved" / "policy").resolve().name == "policy"


def test_a_folder_of_the_user_is_not_replaced_by_a_link(tmp_path: Path) -> None:
    made, output = results(tmp_path / "store"), tmp_path / "out"
    (output / "policy").mkdir(parents=True)
    (output / "policy" / "mine").touch()
    assert "policy" not in link(made, output)
    assert (output / "policy" / "mine").exists()


def test_the_command_that_serves_the_policy_has_the_path_of_the_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = results(tmp_path / "store")
    links = link(made, Path("runs/x"))
    assert next_steps(made, links) == [
        "base     runs/x/base",
        "reward   runs/x/reward",
        "policy   runs/x/policy",
        "report   runs/x/report.html",
        "",
        "steerlm serve generate runs/x/policy",
    ]
    assert next_steps(made, {})[-1] == f"steerlm serve generate {made.models['policy']}"
    assert link(Results({}), Path("none")) == {}
    shutil.rmtree(made.models["policy"])  # as if it were in a remote store only
    assert next_steps(made, {})[2:] == [
        "policy   s3://bucket/policy",
        f"report   {made.report}",
        "",
        f"steerlm serve reward {made.models['reward']}",
    ]
    assert not Path("none").exists()
    policy, report = made.artifacts["train_sft"], made.artifacts["report"]
    shown = fetch_commands(made)
    assert (
        f"policy   {policy.uri}/{policy.kind}" in shown and f"report   {report.uri}/{report.kind}/report.html" in shown
    )
    assert shown[-1] == f"steerlm model fetch {policy.uri}/{policy.kind} policy"
