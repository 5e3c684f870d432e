# SPDX-License-Identifier: Apache-2.0
"""The report stands alone, shows every number it was given, and escapes what models write."""

import re
from pathlib import Path

import pytest

from steerlm.errors import InputError
from steerlm.evaluation.config import EvaluationSettings
from steerlm.evaluation.quality import regression_quality
from steerlm.evaluation.report import Goal, ReportData, read_metrics, render_report, write_report
from steerlm.evaluation.steerability import evaluate_steering
from tests.evaluation.test_steerability import QUESTIONS, SCHEMA, obey_first_only, read


@pytest.fixture(scope="module")
def page() -> str:
    settings = EvaluationSettings(questions=64, curve_questions=2)
    steering = evaluate_steering(
        QUESTIONS, SCHEMA, settings, obey_first_only, {"oracle": read}, lambda cs: ["1 2 3"] * len(cs)
    )
    steering["examples"]["baseline"][0]["answer"] = "<script>alert(1)</script>"
    truth = read([], obey_first_only([]) or ["1 2 3", "3 4 5", "7 1 2"])
    data = ReportData(
        title="A run",
        scale=(0, 9),
        steering=steering,
        quality=regression_quality(truth + 0.1, truth, SCHEMA),
        curves={"reward": [{"step": 1, "train/loss": 2.0}, {"step": 2, "train/loss": 1.0, "validation/loss": 1.5}]},
        goals=[Goal("mean ρ at least 0.8", "0.91", True)],
        stages=[{"name": "train_reward", "seconds": 3.25, "path": "runs/x"}],
        places={"MLflow": "sqlite:///runs/mlflow.db"},
        left_out=["Reward model: train data: 4,364 of 6,228 samples dropped (70.1%): longer than the window"],
    )
    return render_report(data)


def test_it_is_self_contained(page: str) -> None:
    outside = re.findall(r'(?:src|href)="(?!#)[^"]+"', page)
    assert [o for o in outside if "xlink" not in o] == []
    assert "<script" not in page
    assert page.count("<svg") == 4


def test_it_shows_what_it_was_given(page: str) -> None:
    for text in (
        "warm",
        "sqlite:///runs/mlflow.db",
        "mean ρ at least 0.8: 0.91",
        "train_reward",
        "3.2",
        "4,364 of 6,228",
    ):
        assert text in page
    assert "&lt;script&gt;" in page


def test_it_says_what_the_numbers_mean(page: str) -> None:
    followed = page.count("<td>steerable</td>")
    assert followed == 1
    assert page.count("<td>not steerable yet</td>") == len(SCHEMA.active) - followed
    assert f"Partly steerable: the policy follows 1 of {len(SCHEMA.active)} attributes." in page
    assert "The policy does not follow" in page


def test_a_truncated_last_line_of_metrics_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert read_metrics(path) == [{"step": 1, "loss": 2.0}]
    path.write_text('{"step": 1, "lo\n{"step": 2}\n')
    with pytest.raises(InputError, match=r"metrics.jsonl:1"):
        read_metrics(path)


def test_writing_leaves_one_file(tmp_path: Path) -> None:
    write_report(ReportData(title="Empty", scale=(0, 4)), tmp_path / "report.html")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
